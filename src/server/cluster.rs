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

const RESOLVER: Token = Token(6);
const MULTICAST: Token = Token(7);

/// Milliseconds between two collections of news for the live sync, and between two reports.
const NEWS_MS: u64 = 50;
const REPORT_MS: u64 = 1000;

#[derive(Default)]
pub struct Cluster {
    /// With --cluster-listen.
    mesh: Option<Mesh>,
    /// With --sync-multicast.
    live: Option<LiveSync>,
    /// If other nodes have names.
    resolver: Option<Resolver>,
    overview: SharedOverview,
    news_at: u64,
    report_at: u64,
}

impl Cluster {
    pub fn new(mesh: Option<Mesh>, live: Option<LiveSync>, resolver: Option<Resolver>) -> Cluster {
        Cluster {
            mesh,
            live,
            resolver,
            ..Cluster::default()
        }
    }

    /// The report that all threads read; none without a cluster.
    pub fn overview(&mut self) -> Option<SharedOverview> {
        self.report(0);
        let is_on = self.mesh.is_some() || self.live.is_some();
        is_on.then(|| self.overview.clone())
    }

    /// Whether a token is that of a link.
    pub(super) fn owns(token: Token) -> bool {
        Mesh::owns(token)
    }

    pub(super) fn register(&mut self, registry: &Registry) -> io::Result<()> {
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
    pub(super) fn turn(&mut self, token: Token, round: &mut Round) {
        match (token, &mut self.live, &mut self.mesh) {
            (MULTICAST, Some(live), _) => {
                let receive = |w: &World| live.receive(w.now, w.table, w.refuses);
                if round.responder.is_held() || with_world(round.responder, receive) {
                    round.note_busy(token);
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
        let is_due = |mesh: &&mut Mesh| mesh.is_busy() || now >= mesh.next_deadline();
        if let Some(mesh) = self.mesh.as_mut().filter(is_due) {
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
            self.report(now);
        }
    }

    /// Renews the report once a second, and at once if the health has changed.
    fn report(&mut self, now: u64) {
        let mesh = self.mesh.as_ref();
        let health = mesh.map_or(Health::Ok, |mesh| mesh.node.health());
        if now >= self.report_at || health != self.overview.health() {
            self.report_at = now + REPORT_MS;
            self.overview.set(Overview {
                health,
                multicast: self.live.as_ref().map(|live| live.counters),
                ..mesh.map_or_else(Overview::default, |mesh| mesh.node.overview(now))
            });
        }
    }

    /// Sends the news to the opentrackers.
    fn send_news(&mut self, responder: &Responder) {
        let Some(live) = &mut self.live else {
            return;
        };
        let now = responder.table_now();
        let mut news = Vec::new();
        match &mut self.mesh {
            Some(mesh) => news.append(&mut mesh.node.outside),
            None => responder.table.each(now, &mut |tracker| {
                tracker.take_news(&mut news);
            }),
        }
        live.send_news(&news, now);
    }

    /// The list of torrents has changed.
    pub(super) fn list_changed(&mut self) {
        if let Some(mesh) = &mut self.mesh {
            mesh.node.list_changed();
        }
    }

    /// Resolves all names again. Returns their number.
    pub(super) fn resolve_again(&mut self) -> usize {
        let names = self.mesh.as_mut().map_or(0, Mesh::resolve_again);
        if names > 0 {
            let s = plural(names as u64);
            log::line(format_args!("SIGHUP: resolving {names} name{s} of nodes"));
        }
        names
    }

    /// Begins to send everything that other nodes lack. No request is answered any more.
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

/// Gives work the table and the list, which refuses records of other nodes like announces of clients.
fn with_world<T>(responder: &Responder, work: impl FnOnce(&World) -> T) -> T {
    let rules = responder.rules.as_ref().map(SharedRules::read);
    let refuses = |hash: &InfoHash| rules.as_ref().is_some_and(|rules| !rules.tracks(hash));
    work(&World {
        table: &responder.table,
        now: responder.table_now(),
        wall: wall_ms(),
        refuses: &refuses,
    })
}
