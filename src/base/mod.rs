//! Parts that know nothing of trackers: each could stand in any network daemon.

pub mod addresses;
pub mod busiest;
pub mod crc32;
#[cfg(feature = "full-scrape")]
pub mod gzip;
#[cfg(not(feature = "full-scrape"))]
#[path = "no_gzip.rs"]
pub mod gzip;
pub mod job;
pub mod lock;
pub mod log;
pub mod memory;
pub mod nets;
pub mod random;
pub mod siphash;
pub mod text;
