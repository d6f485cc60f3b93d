//! Parts that know nothing of trackers: each could stand in any network daemon.

pub mod busiest;
pub mod crc32;
#[cfg(feature = "full-scrape")]
pub mod gzip;
pub mod log;
pub mod nets;
pub mod random;
pub mod siphash;
pub mod text;
