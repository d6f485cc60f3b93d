//! Where files set options, for errors that show only when all options are known: they keep the file, the line and the
//! keyword of the file.

use super::{file, flags};
use flags::Flag;

/// The origins of options that files have set, in the order of the files. They are no options: two of them are equal.
#[derive(Clone, Debug, Default)]
pub struct Origins(Vec<Origin>);

#[derive(Clone, Debug)]
struct Origin {
    /// The long name of a flag.
    flag: &'static str,
    /// `FILE:LINE`
    place: String,
    keyword: String,
    value: String,
}

impl PartialEq for Origins {
    fn eq(&self, _: &Origins) -> bool {
        true
    }
}

impl Eq for Origins {}

impl Origins {
    pub fn add(&mut self, flag: &Flag, place: &str, keyword: &str, value: &str) {
        self.0.push(Origin {
            flag: flag.long(),
            place: place.into(),
            keyword: keyword.into(),
            value: value.into(),
        });
    }

    /// The command line sets the flag.
    pub fn remove(&mut self, flag: &Flag) {
        self.0.retain(|origin| origin.flag != flag.long());
    }

    fn position(&self, flag: &str) -> Option<usize> {
        self.0.iter().rposition(|origin| origin.flag == flag)
    }

    fn find(&self, flag: &str, is_it: impl Fn(&str) -> bool) -> Option<&Origin> {
        let mut origins = self.0.iter().rev();
        origins.find(|origin| origin.flag == flag && is_it(&origin.value))
    }

    /// Whether a file has set a flag to such a value.
    pub fn has(&self, flag: &str, is_it: impl Fn(&str) -> bool) -> bool {
        self.find(flag, is_it).is_some()
    }

    /// The name of a flag as it was given: a keyword of a file, or `-i/--address`.
    pub fn name(&self, flag: &str) -> String {
        match self.find(flag, |_| true) {
            Some(origin) => origin.keyword.clone(),
            None => flags::find(flag).map_or(flag.into(), Flag::names),
        }
    }

    /// The name of a flag that another lacks: where that is a keyword, a keyword of the same program.
    pub fn name_beside(&self, flag: &'static str, beside: &str) -> String {
        match self.find(beside, |_| true) {
            Some(origin) if origin.keyword == beside => flag.into(),
            Some(_) => file::keyword_of(flag).unwrap_or(flag).into(),
            None => self.name(flag),
        }
    }

    /// The error of a flag. `why` goes on behind its name.
    pub fn error(&self, flag: &str, why: &str) -> String {
        self.error_of(flag, |_| true, why)
    }

    /// The error of a flag with this value.
    pub fn error_of(&self, flag: &str, is_it: impl Fn(&str) -> bool, why: &str) -> String {
        match self.find(flag, is_it) {
            Some(Origin { place, keyword, .. }) => format!("{place}: {keyword}{why}"),
            None => format!("{}{why}", self.name(flag)),
        }
    }

    /// The error of two flags, of which the later is named first.
    pub fn error_of_two(&self, [one, other]: [&str; 2], joint: &str, end: &str) -> String {
        let is_later = self.position(other) > self.position(one);
        let (one, other) = if is_later { (other, one) } else { (one, other) };
        self.error(one, &[joint, &self.name(other), end].concat())
    }
}
