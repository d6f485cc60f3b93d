//! Full scrapes in a build without them: refused, as with `--full-scrape off`.

use super::request::Request;
use super::response::Status;
use super::streaming::Source;
use crate::options::FullScrapes;

pub struct Limiter;

impl Limiter {
    pub fn new(_: FullScrapes) -> Limiter {
        Limiter
    }

    pub fn is_off(&self) -> bool {
        true
    }

    pub fn with(&self, _: FullScrapes) -> Limiter {
        Limiter
    }
}

pub fn admit(
    _: &Limiter,
    _: &Request,
    _is_admin: bool,
    _second: u64,
) -> Result<Box<dyn Source>, Status> {
    Err(Status::Forbidden)
}

pub fn report(_: &Request, _minute: Option<u64>) -> Result<Box<dyn Source>, Status> {
    Err(Status::NotFound)
}
