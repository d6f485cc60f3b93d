//! A strict reader of bencoded values: sorted keys, no leading zeros, nothing left over.

use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Integer(i64),
    String(Vec<u8>),
    List(Vec<Value>),
    Dictionary(BTreeMap<Vec<u8>, Value>),
}

impl Value {
    /// Parses bytes that are one value and nothing else.
    pub fn parse(bytes: &[u8]) -> Value {
        let mut rest = bytes;
        let value = read(&mut rest).unwrap_or_else(|| panic!("not bencoded: {:?}", lossy(bytes)));
        assert!(rest.is_empty(), "bytes after the value: {:?}", lossy(bytes));
        value
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Dictionary(entries) => entries.get(key.as_bytes()),
            other => panic!("not a dictionary: {other:?}"),
        }
    }

    pub fn integer(&self, key: &str) -> i64 {
        match self.get(key) {
            Some(Value::Integer(number)) => *number,
            other => panic!("{key} is {other:?}"),
        }
    }

    pub fn string(&self, key: &str) -> &[u8] {
        match self.get(key) {
            Some(Value::String(bytes)) => bytes,
            other => panic!("{key} is {other:?}"),
        }
    }

    pub fn keys(&self) -> Vec<String> {
        match self {
            Value::Dictionary(entries) => entries.keys().map(|key| lossy(key)).collect(),
            other => panic!("not a dictionary: {other:?}"),
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read(rest: &mut &[u8]) -> Option<Value> {
    let (kind, after) = rest.split_first()?;
    if b"ild".contains(kind) {
        *rest = after;
    }
    match kind {
        b'i' => read_number(rest, b'e').map(Value::Integer),
        b'l' => {
            let mut items = Vec::new();
            while !ends(rest)? {
                items.push(read(rest)?);
            }
            Some(Value::List(items))
        }
        b'd' => {
            let mut entries = BTreeMap::new();
            while !ends(rest)? {
                let key = read_string(rest)?;
                let in_order = entries.last_key_value().is_none_or(|(last, _)| *last < key);
                let value = read(rest)?;
                entries.insert(key, value);
                if !in_order {
                    return None;
                }
            }
            Some(Value::Dictionary(entries))
        }
        _ => read_string(rest).map(Value::String),
    }
}

/// Whether the list or dictionary is over; then its end is consumed.
fn ends(rest: &mut &[u8]) -> Option<bool> {
    let over = *rest.first()? == b'e';
    if over {
        *rest = &rest[1..];
    }
    Some(over)
}

fn read_string(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let length = usize::try_from(read_number(rest, b':')?).ok()?;
    let (string, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(string.to_vec())
}

fn read_number(rest: &mut &[u8], end: u8) -> Option<i64> {
    let length = rest.iter().position(|&b| b == end)?;
    let digits = std::str::from_utf8(&rest[..length]).ok()?;
    let number: i64 = digits.parse().ok()?;
    *rest = &rest[length + 1..];
    (number.to_string() == digits).then_some(number)
}
