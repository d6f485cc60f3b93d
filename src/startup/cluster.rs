//! The start of what a node needs: its sockets, opened before privileges are dropped, and the table's journals.

use super::{Problem, problem};
use crate::cluster::frame::Keys;
use crate::cluster::mesh::Mesh;
use crate::cluster::node::Settings;
use crate::cluster::opentracker::{GROUP, LiveSync, cluster_id, renewals_from};
use crate::log;
use crate::options::Options;
use crate::server::Cluster;
use crate::sys::sockets;
use crate::tracker::Table;
use mio::net::TcpListener;
use std::net::SocketAddrV4;

/// The keys that all nodes of the cluster have, if this is one of them.
pub fn cluster_keys(secret: Option<&[u8]>) -> Option<Keys> {
    secret.map(Keys::new)
}

/// Listens for other nodes.
pub fn open_listeners(options: &Options) -> Result<Vec<TcpListener>, Problem> {
    let mut listeners = Vec::new();
    for &address in &options.cluster.listen {
        let listener = sockets::cluster_tcp(address);
        let listener = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) =
            listener.map_err(problem(format_args!("cannot listen on cluster {address}")))?;
        log::line(format_args!("listening on cluster {address}"));
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Becomes a node, and takes part in opentracker's live sync, as far as options say so. `secret` is the
/// cluster's key.
pub fn start_cluster(
    options: &Options,
    secret: Option<&[u8]>,
    listeners: Vec<TcpListener>,
    table: &Table,
) -> Result<Cluster, Problem> {
    let mut cluster = Cluster::default();
    cluster.live = open_live_sync(options, secret, table)?;
    let Some(keys) = cluster_keys(secret) else {
        return Ok(cluster);
    };
    let address = listeners.first().map(TcpListener::local_addr);
    let port = address
        .and_then(Result::ok)
        .map_or(0, |address| address.port());
    let settings = Settings {
        keys,
        id: random(getrandom::u64())?,
        seed: random(getrandom::u64())?,
        peer_timeout: options.peer_timeout,
        max_peers: options.max_peers,
        peers: options
            .cluster
            .peers
            .iter()
            .map(ToString::to_string)
            .collect(),
        port,
        has_live_sync: cluster.live.is_some(),
    };
    cluster.mesh = Some(Mesh::new(
        settings,
        &options.cluster.peers,
        listeners,
        table,
    ));
    Ok(cluster)
}

/// Takes part in the live sync if an option says so. `secret` is the cluster's key. A node of a cluster joins the
/// journals itself.
fn open_live_sync(
    options: &Options,
    secret: Option<&[u8]>,
    table: &Table,
) -> Result<Option<LiveSync>, Problem> {
    let multicast = &options.multicast;
    let Some(group) = multicast.group else {
        return Ok(None);
    };
    let sockets = sockets::multicast(SocketAddrV4::new(GROUP, group.port), group.interface);
    let sockets = sockets.map_err(problem(format_args!("cannot join multicast {group}")));
    let (input, output) = sockets?;
    log::line(format_args!("listening on multicast {group}"));
    if multicast.nodes.is_empty() {
        log::line(format_args!(
            "multicast: all packets are ignored, as no --sync-node is given"
        ));
    }
    let id = match secret {
        Some(secret) => cluster_id(secret),
        None => {
            let key = [random(getrandom::u64())?, random(getrandom::u64())?];
            let renewals_from = renewals_from(table.unit_ms());
            table.join_cluster(key, options.max_peers, renewals_from, 0);
            random(getrandom::u32())?.to_ne_bytes()
        }
    };
    let (nodes, is_mapping) = (multicast.nodes.clone(), multicast.is_mapping);
    Ok(Some(LiveSync::new(input, output, id, nodes, is_mapping)))
}

fn random<T>(number: Result<T, getrandom::Error>) -> Result<T, Problem> {
    number.map_err(|error| format!("cannot get random bytes: {error}"))
}
