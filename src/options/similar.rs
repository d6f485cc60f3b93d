//! The name that may have been meant.

/// The name that differs from a word by a letter or two, else one that has all its parts, as `tcp-port` for `port`,
/// else one that is a part of it.
pub fn similar<'a>(word: &str, names: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    // Every name would have all parts of a word without any.
    split(word).next()?;
    let max = (word.len() / 3).min(2);
    let near = names.clone().map(|name| (distance(word, name), name));
    let near = near.filter(|(distance, _)| *distance <= max);
    let has_all = |of: &str, parts: &str| split(parts).all(|part| split(of).any(|own| own == part));
    let nearest = near
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name);
    nearest
        .or_else(|| names.clone().find(|name| has_all(name, word)))
        .or_else(|| names.clone().find(|name| has_all(word, name)))
}

fn split(name: &str) -> impl Iterator<Item = &str> {
    name.split(['-', '.', '_']).filter(|part| !part.is_empty())
}

/// Letters to insert, remove or replace (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, other) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_letters_and_by_parts() {
        let names = [
            "tcp-port",
            "udp-port",
            "whitelist",
            "state",
            "peer-timeout",
            "root",
        ];
        for (word, name) in [
            ("port", Some("tcp-port")),
            ("udpport", Some("udp-port")),
            ("whitelst", Some("whitelist")),
            ("timeout", Some("peer-timeout")),
            ("state-file", Some("state")),
            ("bad", None),
            ("x", None),
            ("", None),
            ("-", None),
        ] {
            assert_eq!(similar(word, names.into_iter()), name, "{word}");
        }
    }
}
