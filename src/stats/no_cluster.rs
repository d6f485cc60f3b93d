//! The report on the cluster in a build without one: there is no such value.

use super::View;
use super::metrics::Numbered;
use crate::base::text::text;
use crate::tracker::Totals;

pub enum Health {
    Syncing,
    Alone,
    Ok,
}

pub enum Overview {}

#[derive(Clone)]
pub enum SharedOverview {}

impl SharedOverview {
    pub fn get(&self) -> Overview {
        match *self {}
    }

    pub fn health(&self) -> Health {
        match *self {}
    }
}

impl Overview {
    pub fn records_in(&self) -> u64 {
        match *self {}
    }
}

pub(super) fn tables(overview: &Overview) -> Vec<Numbered> {
    match *overview {}
}

pub fn write_links(_: &Overview, _: &mut Vec<u8>) {}

pub fn find_troubles(_: &Overview, _: bool, _: &mut Vec<String>) {}

pub fn report(_: &View, out: &mut Vec<u8>) {
    text(out, "this build has no cluster support\n");
}

pub fn write_html(_: &Overview, _: &Totals, _: &mut Vec<u8>) {}
