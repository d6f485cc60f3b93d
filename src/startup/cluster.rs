//! The start of a node: its listeners, opened before privileges are dropped, its links, and opentracker's live sync.

use super::{Problem, problem, random};
use crate::base::log;
use crate::cluster::frame::Keys;
use crate::cluster::mesh::Mesh;
use crate::cluster::node::Settings;
use crate::cluster::opentracker::{LiveSync, cluster_id, renewals_from};
use crate::options::Options;
use crate::server::Cluster;
use crate::sys::sockets;
use crate::tracker::Table;
use mio::net::TcpListener;
use std::net::{Ipv4Addr, SocketAddrV4};

/// opentracker's multicast group.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 23, 5);

/// Listens for other nodes.
pub fn open_listeners(options: &Options) -> Result<Vec<TcpListener>, Problem> {
    let mut listeners = Vec::new();
    for &address in &options.cluster_listen {
        let listener = sockets::cluster_tcp(address);
        let listener = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) =
            listener.map_err(problem(&format!("cannot listen on cluster {address}")))?;
        log::line(format_args!("listening on cluster {address}"));
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Becomes a node, and takes part in opentracker's live sync, as far as options say so. `key` is the cluster's.
pub fn start(
    options: &Options,
    key: Option<&[u8]>,
    listeners: Vec<TcpListener>,
    table: &Table,
) -> Result<Cluster, Problem> {
    let mut cluster = Cluster::default();
    cluster.live = open_live_sync(options, key, table)?;
    let Some(key) = key else {
        return Ok(cluster);
    };
    let address = listeners.first().map(TcpListener::local_addr);
    let port = address
        .and_then(Result::ok)
        .map_or(0, |address| address.port());
    let settings = Settings {
        keys: Keys::new(key),
        id: random()?,
        seed: random()?,
        peer_timeout: options.peer_timeout(),
        max_peers: options.max_peers as usize,
        peers: options
            .cluster_peers
            .iter()
            .map(ToString::to_string)
            .collect(),
        port,
        has_live_sync: cluster.live.is_some(),
    };
    cluster.mesh = Some(Mesh::new(
        settings,
        &options.cluster_peers,
        listeners,
        table,
    ));
    Ok(cluster)
}

/// A node of a cluster joins the journals itself.
fn open_live_sync(
    options: &Options,
    key: Option<&[u8]>,
    table: &Table,
) -> Result<Option<LiveSync>, Problem> {
    let Some(interface) = options.sync_multicast else {
        return Ok(None);
    };
    let (ip, port) = (interface.ip(), interface.port());
    let shown = format!("multicast {GROUP}:{port} through {ip}");
    let sockets = sockets::multicast(SocketAddrV4::new(GROUP, port), *ip);
    let (input, output) = sockets.map_err(problem(&format!("cannot join {shown}")))?;
    log::line(format_args!("listening on {shown}"));
    if options.sync_nodes.is_empty() {
        log::line(format_args!("multicast: send only: no --sync-node given"));
    }
    let id = match key {
        Some(key) => cluster_id(key),
        None => {
            let renewals_from = renewals_from(table.unit_ms());
            table.join_cluster(
                [random()?, random()?],
                options.max_peers as usize,
                renewals_from,
                0,
            );
            let [a, b, c, d, ..] = random()?.to_ne_bytes();
            [a, b, c, d]
        }
    };
    let (nodes, is_mapping) = (options.sync_nodes.clone(), options.sync_mapped);
    Ok(Some(LiveSync::new(input, output, id, nodes, is_mapping)))
}
