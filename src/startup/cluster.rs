//! The start of a node: its listeners, its links, and opentracker's live sync. Privileges are dropped afterwards.

use super::sockets::retry_at;
use super::{Problem, file_problem, problem, random, random_key};
use crate::base::log;
use crate::cluster::frame::Keys;
use crate::cluster::key;
use crate::cluster::mesh::Mesh;
use crate::cluster::node::Settings;
use crate::cluster::opentracker::{LiveSync, cluster_id, renewals_from};
use crate::helper::Resolver;
use crate::options::Options;
use crate::server::Cluster;
use crate::sys::sockets::{self, Multicast};
use crate::tracker::Table;
use mio::net::TcpListener;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

/// opentracker's multicast group.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 23, 5);

/// The part of a node that is made before the root directory is entered and privileges are dropped.
pub struct Membership {
    /// The key of the cluster, if this is to be a node of one.
    key: Option<Vec<u8>>,
    listeners: Vec<TcpListener>,
    /// With --sync-multicast: to receive, and to send.
    multicast: Option<Multicast>,
    resolver: Option<Resolver>,
}

/// Writes a new key.
pub fn make_key(path: &Path) -> Result<(), Problem> {
    key::make(path).map_err(file_problem("--make-key", path))
}

pub fn check(options: &Options) -> Result<(), Problem> {
    read_key(options).map(drop)
}

fn read_key(options: &Options) -> Result<Option<Vec<u8>>, Problem> {
    let path = options.cluster_key.as_deref();
    let read = |path| key::read(path).map_err(file_problem("--cluster-key", path));
    path.map(read).transpose()
}

impl Membership {
    pub fn open(options: &Options, resolver: Option<Resolver>) -> Result<Membership, Problem> {
        Ok(Membership {
            key: read_key(options)?,
            listeners: open_listeners(options)?,
            multicast: open_multicast(options)?,
            resolver,
        })
    }

    fn keys(&self) -> Option<Keys> {
        self.key.as_deref().map(Keys::new)
    }

    /// For UDP connection ids that all nodes accept.
    pub fn connection_key(&self) -> Option<[u64; 2]> {
        Some(self.keys()?.connections())
    }

    /// For decoys that all nodes name.
    pub fn decoy_key(&self) -> Option<[u64; 2]> {
        Some(self.keys()?.decoys())
    }

    /// Becomes a node, and takes part in opentracker's live sync, as far as options say so.
    pub fn start(self, options: &Options, table: &Table) -> Result<Cluster, Problem> {
        let keys = self.keys();
        let live = match self.multicast {
            Some(sockets) => Some(live_sync(options, sockets, self.key.as_deref(), table)?),
            None => None,
        };
        let mesh = match keys {
            Some(keys) => {
                let settings = settings(options, keys, live.is_some())?;
                let (peers, listeners) = (&options.cluster_peers, self.listeners);
                Some(Mesh::new(settings, peers, listeners, table))
            }
            None => None,
        };
        Ok(Cluster::new(mesh, live, self.resolver))
    }
}

/// The names of nodes, if some are not addresses.
pub fn names(options: &Options) -> Vec<String> {
    let peers = &options.cluster_peers;
    if peers.iter().all(|peer| peer.address().is_some()) {
        return Vec::new();
    }
    peers.iter().map(|peer| peer.host.clone()).collect()
}

/// Listens for other nodes.
fn open_listeners(options: &Options) -> Result<Vec<TcpListener>, Problem> {
    let mut listeners = Vec::new();
    for &address in &options.cluster_listen {
        let shown = format!("cluster {address}");
        let listener = retry_at(&shown, || sockets::cluster_tcp(address));
        let listener = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) =
            listener.map_err(problem(&format!("cannot listen on {shown}")))?;
        log::line(format_args!("listening on cluster {address}"));
        listeners.push(listener);
    }
    Ok(listeners)
}

fn settings(options: &Options, keys: Keys, has_live_sync: bool) -> Result<Settings, Problem> {
    Ok(Settings {
        keys,
        id: random()?,
        seed: random()?,
        peer_timeout: options.peer_timeout(),
        max_peers: options.bounds().peers,
        max_per_host: options.max_per_host,
        has_live_sync,
        ..Settings::default()
    })
}

fn open_multicast(options: &Options) -> Result<Option<Multicast>, Problem> {
    let Some(interface) = options.sync_multicast else {
        return Ok(None);
    };
    let (ip, port) = (interface.ip(), interface.port());
    let shown = format!("multicast {GROUP}:{port} through {ip}");
    let group = SocketAddrV4::new(GROUP, port);
    let sockets = retry_at(&shown, || Multicast::open(group, *ip));
    let sockets = sockets.map_err(problem(&format!("cannot join {shown}")))?;
    sockets::set_receive_buffer(&sockets.input, options.receive_buffer().bytes);
    log::line(format_args!("listening on {shown}"));
    if options.sync_nodes.is_empty() {
        log::line(format_args!("multicast: send only: no --sync-node given"));
    }
    Ok(Some(sockets))
}

/// Without a cluster, the table notes news for the live sync alone.
fn live_sync(
    options: &Options,
    sockets: Multicast,
    key: Option<&[u8]>,
    table: &Table,
) -> Result<LiveSync, Problem> {
    let id = match key {
        Some(key) => cluster_id(key),
        None => {
            let renewals_from = renewals_from(table.unit_ms());
            let max_peers = options.bounds().peers;
            table.join_cluster(random_key()?, max_peers, renewals_from, 0);
            let [a, b, c, d, ..] = random()?.to_ne_bytes();
            [a, b, c, d]
        }
    };
    let (nodes, is_mapping) = (options.sync_nodes.clone(), options.sync_mapped);
    Ok(LiveSync::new(sockets, id, nodes, is_mapping))
}
