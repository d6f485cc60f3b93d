//! The chores of a node: the mesh of links, opentracker's live sync, and the helper that resolves names.

use super::Round;
use crate::access::SharedRules;
use crate::base::log;
use crate::base::text::plural;
use crate::cluster::mesh::Mesh;
use crate::cluster::node::World;
use crate::cluster::opentracker::LiveSync;
use crate::helper::Resolver;
use crate::responder::Responder;
use crate::state::wall_ms;
use crate::stats::cluster::{Health, Overview, SharedOverview};
use crate::tracker::InfoHash;
use mio::{Registry, Token};
use std::io;

const LISTENERS: [Token; 2] = [Token(4), Token(5)];
const RESOLVER: Token = Token(6);
const MULTICAST: Token = Token(7);

/// Milliseconds between two rounds of news for the live sync.
const NEWS_MS: u64 = 50;

#[derive(Default)]
pub struct Cluster {
    /// With --cluster-listen.
    pub mesh: Option<Mesh>,
    /// With --sync-multicast.
    pub live: Option<LiveSync>,
    /// If other nodes have names.
    pub resolver: Option<Resolver>,
    news_at: u64,
}

impl Cluster {
    /// The report that all threads read; none without a cluster.
    pub fn overview(&self) -> Option<SharedOverview> {
        if let Some(mesh) = &self.mesh {
            return Some(mesh.overview());
        }
        let overview = SharedOverview::default();
        overview.set(live_overview(self.live.as_ref()?));
        Some(overview)
    }

    /// Whether a token is that of a link.
    pub(super) fn owns(token: Token) -> bool {
        Mesh::owns(token)
    }

    pub(super) fn register(&mut self, registry: &Registry) -> io::Result<()> {
        if let Some(mesh) = &mut self.mesh {
            mesh.register(registry, LISTENERS)?;
        }
        if let Some(live) = &mut self.live {
            live.register(registry, MULTICAST)?;
        }
        match &mut self.resolver {
            Some(resolver) => resolver.register(registry, RESOLVER),
            None => Ok(()),
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.mesh.as_ref().is_some_and(Mesh::is_busy)
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        let mesh = self.mesh.as_ref().map(Mesh::next_deadline);
        mesh.or(self.live.as_ref().map(|_| self.news_at))
    }

    /// Does a bounded piece of the work of a source. While the table's clock is held, nothing from other nodes is read.
    pub(super) fn turn(&mut self, token: Token, is_held: bool, round: &mut Round) {
        match (token, &mut self.live, &mut self.mesh) {
            (MULTICAST, Some(live), _) => {
                let receive = |w: &World| live.receive(w.now, w.table, w.refuses);
                if is_held || with_world(round.responder, receive) {
                    round.busy.add(token);
                }
            }
            (RESOLVER, _, Some(mesh)) => {
                while let Some((name, addresses)) = self.resolver.as_mut().and_then(Resolver::turn)
                {
                    mesh.resolved(name, addresses);
                }
            }
            (_, _, Some(mesh)) => mesh.ready(token),
            _ => {}
        }
    }

    /// Does the work that is due.
    pub(super) fn step(&mut self, round: &mut Round) {
        let responder = &*round.responder;
        let now = responder.table_now();
        if let Some(mesh) = self.mesh.as_mut().filter(|mesh| mesh.is_due(now)) {
            with_world(responder, |world| mesh.serve(round.registry, world));
            if let Some(resolver) = &mut self.resolver {
                while let Some(number) = mesh.next_question(now) {
                    resolver.ask(number);
                }
            }
        }
        if self.news_at <= now {
            self.news_at = now + NEWS_MS;
            self.send_news(responder);
        }
    }

    /// Sends the news to the opentrackers.
    fn send_news(&mut self, responder: &Responder) {
        let Some(live) = &mut self.live else {
            return;
        };
        let now = responder.table_now();
        let news = match &mut self.mesh {
            Some(mesh) => {
                mesh.multicast = Some(*live.counters());
                std::mem::take(&mut mesh.node.outside)
            }
            None => {
                let mut news = Vec::new();
                responder.table.each(now, &mut |tracker| {
                    tracker.take_news(&mut news);
                });
                news
            }
        };
        live.tell(&news, now);
        if let (None, Some(overview)) = (&self.mesh, &responder.cluster) {
            overview.set(live_overview(live));
        }
    }

    /// The list of torrents has changed.
    pub(super) fn list_changed(&mut self) {
        if let Some(mesh) = &mut self.mesh {
            mesh.node.list_changed();
        }
    }

    /// Resolves all names again; returns their number.
    pub(super) fn resolve_again(&mut self) -> usize {
        let names = self.mesh.as_mut().map_or(0, Mesh::resolve_again);
        if names > 0 {
            let s = plural(names as u64);
            log::line(format_args!("SIGHUP: resolving {names} name{s} of nodes"));
        }
        names
    }

    /// Sends everything that other nodes lack. No request is answered any more.
    pub(super) fn wind_up(&mut self, responder: &Responder) {
        if let Some(mesh) = &mut self.mesh {
            with_world(responder, |world| mesh.wind_up(world));
        }
        self.send_news(responder);
        if let Some(live) = &mut self.live {
            live.wind_up(responder.table_now());
        }
    }

    pub(super) fn is_over(&self, now: u64) -> bool {
        self.mesh.as_ref().is_none_or(|mesh| mesh.is_over(now))
    }
}

/// The report without other nodes.
fn live_overview(live: &LiveSync) -> Overview {
    Overview {
        health: Health::Ok,
        multicast: Some(*live.counters()),
        ..Overview::default()
    }
}

/// Lets other nodes' records come to the table, except those of torrents that the list refuses.
fn with_world<T>(responder: &Responder, work: impl FnOnce(&World) -> T) -> T {
    let rules = responder.rules.as_ref().map(SharedRules::read);
    let refuses = |hash: &InfoHash| {
        let rules = rules.as_ref();
        rules.is_some_and(|rules| rules.refuses(hash).is_some())
    };
    work(&World {
        table: &responder.table,
        now: responder.table_now(),
        wall: wall_ms(),
        refuses: &refuses,
    })
}
