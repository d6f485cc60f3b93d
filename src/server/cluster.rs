//! The chores for other nodes: the mesh of links, opentracker's live sync, and the helper that resolves names.

use super::Round;
use crate::access::SharedRules;
use crate::cluster::mesh::Mesh;
use crate::cluster::node::World;
use crate::cluster::opentracker::LiveSync;
use crate::log;
use crate::resolver::Resolver;
use crate::responder::Responder;
use crate::state::wall_ms;
use crate::stats::cluster::{Health, Overview, SharedOverview};
use crate::stats::people::plural;
use crate::tracker::InfoHash;
use mio::{Registry, Token};
use std::io;

const LISTENERS: [Token; 2] = [Token(4), Token(5)];
const RESOLVER: Token = Token(6);
const MULTICAST: Token = Token(7);

/// Milliseconds between two looks at the news without a mesh.
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
    /// The report that all threads read; none if there is nothing to report on.
    pub fn overview(&self) -> Option<SharedOverview> {
        match (&self.mesh, &self.live) {
            (Some(mesh), _) => Some(mesh.overview()),
            (None, Some(live)) => {
                let overview = SharedOverview::default();
                overview.set(live_overview(live));
                Some(overview)
            }
            (None, None) => None,
        }
    }

    pub(super) fn owns(token: Token) -> bool {
        LISTENERS.contains(&token) || token == RESOLVER || token == MULTICAST || Mesh::owns(token)
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
        match (&self.mesh, &self.live) {
            (Some(mesh), _) => Some(mesh.next_deadline()),
            (None, Some(_)) => Some(self.news_at),
            (None, None) => None,
        }
    }

    /// Notes what has happened to a connection, or does a bounded piece of what waits. Nothing of other nodes is read
    /// while the table's clock is held.
    pub(super) fn turn(&mut self, token: Token, is_held: bool, round: &mut Round) {
        match token {
            MULTICAST if is_held => round.busy.add(token),
            MULTICAST => self.receive_multicast(round),
            RESOLVER => self.hear_resolver(),
            _ => {
                if let Some(mesh) = &mut self.mesh {
                    mesh.ready(token);
                }
            }
        }
    }

    fn receive_multicast(&mut self, round: &mut Round) {
        let Some(live) = &mut self.live else {
            return;
        };
        let is_busy = with_world(round.responder, |world| {
            live.receive(world.now, world.table, world.refuses)
        });
        if is_busy {
            round.busy.add(MULTICAST);
        }
    }

    fn hear_resolver(&mut self) {
        while let Some(answer) = self.resolver.as_mut().and_then(Resolver::turn) {
            if let Some(mesh) = &mut self.mesh {
                mesh.resolved(answer.number, answer.addresses);
            }
        }
    }

    /// Does what is due.
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
        if self.live.is_some() && self.news_at <= now {
            self.news_at = now + NEWS_MS;
            self.tell_live(responder);
        }
    }

    /// Tells opentrackers what clients have announced.
    fn tell_live(&mut self, responder: &Responder) {
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

    /// Resolves all names again; how many there are.
    pub(super) fn resolve_again(&mut self) -> usize {
        let names = self.mesh.as_mut().map_or(0, Mesh::resolve_again);
        if names > 0 {
            let s = plural(names as u64);
            log::line(format_args!("SIGHUP: resolving {names} name{s} of nodes"));
        }
        names
    }

    /// Sends what other nodes do not have yet. No request is answered any more.
    pub(super) fn wind_up(&mut self, responder: &Responder) {
        if let Some(mesh) = &mut self.mesh {
            with_world(responder, |world| mesh.wind_up(world));
        }
        self.tell_live(responder);
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
