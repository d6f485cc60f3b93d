//! Pure codecs, bytes to types and back. Nothing here does input or output or knows the tracker's
//! state.

pub mod bencode;
pub mod bep15;
pub mod query;
