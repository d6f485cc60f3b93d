//! The start of a node in a build without the cluster: every flag of it is refused before.

use super::Problem;
use crate::helper::Resolver;
use crate::options::Options;
use crate::server::Cluster;
use crate::tracker::Table;
use std::path::Path;

pub struct Membership;

pub fn make_key(_: &Path) -> Result<(), Problem> {
    Ok(())
}

pub fn check(_: &Options) -> Result<(), Problem> {
    Ok(())
}

pub fn names(_: &Options) -> Vec<String> {
    Vec::new()
}

impl Membership {
    pub fn open(_: &Options, _: Option<Resolver>) -> Result<Membership, Problem> {
        Ok(Membership)
    }

    pub fn connection_key(&self) -> Option<[u64; 2]> {
        None
    }

    pub fn decoy_key(&self) -> Option<[u64; 2]> {
        None
    }

    pub fn start(self, _: &Options, _: &Table) -> Result<Cluster, Problem> {
        Ok(Cluster::default())
    }
}
