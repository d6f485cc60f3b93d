//! The poll loop and nothing else: whose turn it is, and what time it is.

use crate::access::{Access, Fifo};
use crate::http::{Connections, Context, Listener, Proxies, Site, Turn};
use crate::join::Joins;
use crate::keeper::{Event, Keeper};
use crate::log::{self, Level};
use crate::resolver::Resolver;
use crate::service::Service;
use crate::state::{Saves, wall_ms};
use crate::stats::{self, people::plural};
use crate::sync::cluster;
use crate::sys::mmsg::Batch;
use crate::sys::signals::{self, Signal};
use crate::sys::uptime::Moment;
use crate::tracker::Progress;
use crate::udp::{self, ConnectionIds};
use crate::worker::Place;
use crate::worker::link::Message;
use mio::net::{UdpSocket, UnixStream};
use mio::{Events, Interest, Poll, Token};
use std::io::{self, Read};
use std::time::Duration;

mod several;

/// Records that the sweep looks at between two rounds of requests: well below a millisecond, even
/// where none of them is in the cache. While ten million torrents expire, a UDP connect waits for no longer
/// with a quarter of it: p99 1.5 ms against 1.4, on a machine where it is 1.1 to 1.6 when idle.
const SWEEP_BUDGET: usize = 4096;

/// Milliseconds after which the end no longer waits for replies to be taken.
const FAREWELL: u64 = 800;

/// Milliseconds until accepting is tried again when the system is out of descriptors.
const RETRY: u64 = 500;

/// Milliseconds between two lines of counts.
const REPORT: u64 = 60_000;

/// Signals, or what the parent says.
const ORDERS: Token = Token(0);
const KEEPER: Token = Token(1);
const LIST_ADD: Token = Token(2);
const LIST_REMOVE: Token = Token(3);
const CLUSTER_V4: Token = Token(4);
const CLUSTER_V6: Token = Token(5);
const RESOLVER: Token = Token(6);
const MULTICAST: Token = Token(7);
const GROUP: Token = Token(8);
/// Streams to other workers.
const STREAMS: Token = Token(9);
const FIRST_SOCKET: usize = 10;

/// A socket that does not belong to one client.
pub enum Socket {
    Udp(UdpSocket),
    Http(Listener),
}

pub struct Server {
    poll: Poll,
    /// None for one of several, which hears of them from its parent.
    signals: Option<UnixStream>,
    /// For one of several.
    place: Option<Place>,
    keeper: Option<Keeper>,
    resolver: Option<Resolver>,
    fifos: Fifos,
    saves: Option<Saves>,
    cluster: cluster::Sockets,
    joins: Joins,
    sockets: Vec<Socket>,
    /// Of each socket, whether this process serves it.
    served: Vec<bool>,
    connections: Connections,
    service: Service,
    site: Site,
    ids: ConnectionIds,
    batch: Batch,
    /// Sockets that may have more to do, although no new event will tell.
    busy: Vec<Token>,
    start: Moment,
    /// Set while the listeners are out of descriptors: when they are tried again.
    starved_at: Option<u64>,
    report_at: Option<u64>,
    sweeping: bool,
    /// Set while requests wait because the table's clock is held: since when.
    held_since: Option<u64>,
    stop_at: Option<u64>,
    /// The parent has been told that the table is whole.
    is_ready: bool,
    /// When it may be asked for a stream again.
    ask_at: u64,
    /// There was nothing to save that would have been worth it.
    is_unsaved: bool,
    /// The other workers, if there were any, have ended.
    is_last: bool,
    /// The FIFOs are not read until the parent has taken what they gave.
    fifos_wait: bool,
}

/// The FIFOs through which the list of info-hashes is changed.
#[derive(Default)]
pub struct Fifos {
    pub add: Option<Fifo>,
    pub remove: Option<Fifo>,
}

impl Fifos {
    fn next_report(&self) -> Option<u64> {
        let fifos = [&self.add, &self.remove].into_iter().flatten();
        fifos.filter_map(Fifo::next_report).min()
    }

    fn report(&mut self, now: u64) {
        let fifos = [&mut self.add, &mut self.remove].into_iter().flatten();
        fifos.for_each(|fifo| fifo.report(now));
    }
}

/// What a server is made of.
pub struct Parts {
    /// These, or a place among several.
    pub signals: Option<UnixStream>,
    pub place: Option<Place>,
    /// If an option needs it.
    pub keeper: Option<Keeper>,
    /// If other nodes have names.
    pub resolver: Option<Resolver>,
    pub fifos: Fifos,
    /// If the state is to be saved, which the keeper does.
    pub saves: Option<Saves>,
    pub cluster: cluster::Sockets,
    pub joins: Joins,
    /// All, worker by worker.
    pub sockets: Vec<Socket>,
    pub most_connections: usize,
    pub proxies: Proxies,
    pub service: Service,
    pub site: Site,
    pub ids: ConnectionIds,
}

impl Server {
    pub fn new(parts: Parts) -> io::Result<Server> {
        let Parts {
            signals,
            place,
            keeper,
            resolver,
            fifos,
            saves,
            cluster,
            joins,
            sockets,
            most_connections,
            proxies,
            service,
            site,
            ids,
        } = parts;
        let connections = Connections::new(most_connections, proxies, FIRST_SOCKET + sockets.len());
        let mut server = Server {
            poll: Poll::new()?,
            signals,
            place,
            keeper,
            resolver,
            fifos,
            saves,
            cluster,
            joins,
            served: vec![false; sockets.len()],
            sockets,
            connections,
            service,
            site,
            ids,
            batch: Batch::new(),
            busy: Vec::new(),
            start: Moment::now(),
            starved_at: None,
            report_at: log::is_told(Level::Info).then_some(REPORT),
            sweeping: false,
            held_since: None,
            stop_at: None,
            is_ready: false,
            ask_at: 0,
            is_unsaved: false,
            is_last: false,
            fifos_wait: false,
        };
        server.register()?;
        Ok(server)
    }

    /// Has the poll watch all that it is to watch from the start.
    fn register(&mut self) -> io::Result<()> {
        let registry = self.poll.registry();
        if let Some(signals) = &mut self.signals {
            registry.register(signals, ORDERS, Interest::READABLE)?;
        }
        if let Some(place) = &self.place {
            several::register(place, registry)?;
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.register(registry, KEEPER)?;
        }
        if let Some(resolver) = &mut self.resolver {
            resolver.register(registry, RESOLVER)?;
        }
        self.cluster
            .register(registry, CLUSTER_V4, CLUSTER_V6, MULTICAST)?;
        self.joins.register(registry)?;
        let fifos = [
            (&self.fifos.add, LIST_ADD),
            (&self.fifos.remove, LIST_REMOVE),
        ];
        for (fifo, token) in fifos {
            if let Some(fifo) = fifo {
                fifo.register(registry, token)?;
            }
        }
        if self.place.is_none() {
            for index in 0..self.sockets.len() {
                self.begin_serving(index)?;
            }
        }
        Ok(())
    }

    /// Serves until a signal ends it; false if the state was to be saved then and could not be.
    pub fn run(mut self) -> io::Result<bool> {
        let mut events = Events::with_capacity(1024);
        loop {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
                other => other?,
            }
            let now = self.now();
            self.service.advance(now);
            let cluster = self.service.cluster.as_ref();
            self.ids
                .advance(cluster.map_or(now, |cluster| cluster.node().cluster_time()));
            for token in std::mem::take(&mut self.busy) {
                self.turn(token, false, now);
            }
            for event in &events {
                self.turn(event.token(), event.is_read_closed(), now);
            }
            if !self.is_held() {
                self.serve_connections(now);
                self.serve_cluster(now);
            }
            self.become_ready(now);
            self.keep_house(now);
            if self.has_stopped(now) {
                let saves = self.saves.as_ref();
                let is_saved = saves.is_none_or(Saves::is_saved) && !self.is_unsaved;
                match (&self.place, is_saved) {
                    (Some(_), true) => self.report(&Message::Done),
                    (Some(_), false) => {}
                    (None, _) => log::line(format_args!("stopped")),
                }
                return Ok(is_saved);
            }
        }
    }

    /// Whether the table's clock is held after a long pause, until all of the table has been swept. Until then
    /// nothing is read from clients or other nodes, and no connection is accepted.
    fn is_held(&self) -> bool {
        self.service.tracker.is_held()
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        self.start.elapsed_ms()
    }

    /// How long there is nothing to do but wait; none is for ever.
    fn timeout(&self) -> Option<Duration> {
        let is_reloading = self.service.access.as_ref().is_some_and(Access::is_busy);
        let can_save = match (&self.saves, &self.keeper) {
            (Some(saves), Some(keeper)) => saves.can_go_on(keeper),
            _ => false,
        };
        let can_go_on = self.sweeping || is_reloading || can_save || self.joins.are_busy();
        if !self.busy.is_empty() || self.connections.are_busy() || can_go_on {
            return Some(Duration::ZERO);
        }
        let deadlines = [
            self.connections.next_deadline(),
            self.service.next_sweep(),
            self.service.next_tick(),
            self.joins.next_deadline(),
            self.starved_at,
            self.report_at,
            self.fifos.next_report(),
            // A save that is waited for tells when it ends.
            self.stop_at
                .filter(|_| !self.is_saving() && !self.awaits_others()),
            self.next_flush(self.now()),
            self.saves.as_ref().and_then(Saves::next_at),
        ];
        let next = deadlines.into_iter().flatten().min()?;
        Some(Duration::from_millis(next.saturating_sub(self.now())))
    }

    /// Lets a socket, a connection or the signals do a bounded piece of what waits.
    fn turn(&mut self, token: Token, hung_up: bool, now: u64) {
        match token {
            ORDERS if self.place.is_some() => self.obey(now),
            ORDERS => self.take_signals(now),
            GROUP | STREAMS | CLUSTER_V4 | CLUSTER_V6 | MULTICAST if self.is_held() => {
                self.is_busy_with(token);
            }
            GROUP => self.hear_group(),
            STREAMS => self.take_streams(now),
            KEEPER => self.hear_keeper(now),
            LIST_ADD | LIST_REMOVE => self.change_list(token),
            CLUSTER_V4 | CLUSTER_V6 => self.hear_cluster(token),
            MULTICAST => self.hear_multicast(),
            RESOLVER => self.hear_resolver(),
            _ if Joins::owns(token) => self.joins.ready(token),
            _ => self.serve_socket(token, hung_up, now),
        }
    }

    fn serve_socket(&mut self, token: Token, hung_up: bool, now: u64) {
        let is_held = self.is_held();
        let mut context = Context {
            registry: self.poll.registry(),
            service: &mut self.service,
            site: &mut self.site,
            now,
        };
        let index = token.0 - FIRST_SOCKET;
        let is_busy = match self.sockets.get(index) {
            Some(_) if self.served.get(index) != Some(&true) => false,
            Some(_) if is_held => true,
            Some(Socket::Udp(socket)) => {
                udp::serve(socket, &mut self.batch, &self.ids, &mut self.service)
            }
            Some(Socket::Http(listener)) => match self.connections.accept(listener, &mut context) {
                Ok(turn) => turn == Turn::More,
                Err(error) => {
                    if self.starved_at.is_none() {
                        log::error(format_args!("cannot accept connections: {error}"));
                    }
                    self.starved_at = Some(now + RETRY);
                    false
                }
            },
            None => return self.connections.ready(token, hung_up),
        };
        if is_busy {
            self.is_busy_with(token);
        }
    }

    /// There is more to do, although no new event will tell.
    fn is_busy_with(&mut self, token: Token) {
        if !self.busy.contains(&token) {
            self.busy.push(token);
        }
    }

    /// A turn for some of the connections that have something to do; the others wait for the next round,
    /// so that however many there are, datagrams do not wait for them for long.
    fn serve_connections(&mut self, now: u64) {
        let mut context = Context {
            registry: self.poll.registry(),
            service: &mut self.service,
            site: &mut self.site,
            now,
        };
        context.service.monitor.connections = self.connections.open();
        self.connections.serve_some(&mut context);
    }

    /// Takes a bounded piece of what other nodes have sent.
    fn hear_cluster(&mut self, token: Token) {
        let socket = match token {
            CLUSTER_V4 => &self.cluster.v4,
            _ => &self.cluster.v6,
        };
        let Some(socket) = socket else {
            return;
        };
        let batch = &mut self.batch;
        let is_busy = self.service.with_cluster(&mut |cluster, tracker, refuses| {
            cluster.receive(socket, batch, tracker, refuses)
        });
        if is_busy {
            self.is_busy_with(token);
        }
    }

    /// Takes a bounded piece of what opentrackers have sent.
    fn hear_multicast(&mut self) {
        let Some(live) = &self.cluster.live else {
            return;
        };
        let batch = &mut self.batch;
        let is_busy = self.service.with_cluster(&mut |cluster, tracker, refuses| {
            cluster.receive_multicast(&live.input, batch, tracker, refuses)
        });
        if is_busy {
            self.is_busy_with(MULTICAST);
        }
    }

    /// Tells other nodes what has changed, and does what else is due with them.
    fn serve_cluster(&mut self, now: u64) {
        let registry = self.poll.registry();
        self.joins.serve(registry, &mut self.service, now);
        self.service.with_cluster(&mut |cluster, tracker, refuses| {
            cluster.tick(tracker, refuses);
            false
        });
        let Some(cluster) = &mut self.service.cluster else {
            return;
        };
        let group = self.place.as_mut().map(|place| &mut place.group);
        cluster.send(&self.cluster, group);
        if let Some(resolver) = &mut self.resolver {
            while let Some(number) = cluster.next_question() {
                resolver.ask(number);
            }
        }
    }

    fn hear_resolver(&mut self) {
        while let Some(answer) = self.resolver.as_mut().and_then(Resolver::turn) {
            if let Some(cluster) = &mut self.service.cluster {
                cluster.resolved(answer.number, answer.addresses);
            }
        }
    }

    /// What the keeper tells is for whoever asked it.
    fn hear_keeper(&mut self, now: u64) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let (access, saves) = (self.service.access.as_mut(), self.saves.as_mut());
        match (keeper.turn(), access, saves) {
            (Some(Event::Bytes(bytes)), Some(access), _) => access.take(&bytes, keeper),
            (Some(Event::End), Some(access), _) => access.end(),
            (Some(Event::ReadFailed(why)), Some(access), _) => access.fail(&why),
            (Some(Event::Saved), _, Some(saves)) => saves.saved(now),
            (Some(Event::SaveFailed(why)), _, Some(saves)) => saves.failed(&why, now),
            _ => {}
        }
        if keeper.is_busy() {
            self.is_busy_with(KEEPER);
        }
    }

    /// Takes a bounded piece of what was written to a FIFO.
    fn change_list(&mut self, token: Token) {
        if self.is_behind() {
            return;
        }
        let (flag, fifo) = match token {
            LIST_ADD => ("--list-add", &mut self.fifos.add),
            _ => ("--list-remove", &mut self.fifos.remove),
        };
        let Some(hashes) = fifo.as_mut().and_then(Fifo::turn) else {
            return;
        };
        if let Some(access) = &mut self.service.access {
            access.change(flag, &hashes, token == LIST_ADD);
        }
        self.pass_on(hashes, token == LIST_ADD);
        self.is_busy_with(token);
    }

    fn reload(&mut self) {
        // What is passed on to the others from here on belongs to the list that is read now.
        self.report(&Message::Reload);
        let cluster = self.service.cluster.as_mut();
        let names = cluster.map_or(0, |cluster| cluster.resolve_again());
        if names > 0 {
            log::line(format_args!(
                "SIGHUP: resolving {names} name{} of nodes",
                plural(names as u64)
            ));
        }
        match (&mut self.service.access, &mut self.keeper) {
            (Some(access), Some(keeper)) => access.reload(keeper),
            _ if names > 0 => {}
            // The gateway says so for all.
            _ if self.place.as_ref().is_some_and(|place| !place.is_gateway()) => {}
            _ => log::line(format_args!("SIGHUP: there is nothing to reload")),
        }
    }

    fn take_signals(&mut self, now: u64) {
        let Some(reader) = &mut self.signals else {
            return;
        };
        let mut bytes = [0; 64];
        loop {
            match reader.read(&mut bytes) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        for signal in signals::take() {
            match signal {
                Signal::Stop => self.stop(now),
                Signal::Reload => self.reload(),
                Signal::Save => self.save(),
            }
        }
    }

    fn save(&mut self) {
        match &mut self.saves {
            Some(saves) => saves.request(),
            None => log::line(format_args!("SIGUSR1: there is no --state to save")),
        }
    }

    /// Closes all that waits for requests; replies that are on their way may still leave.
    fn stop(&mut self, now: u64) {
        if self.stop_at.is_none() {
            if let (None, Some(saves)) = (&self.place, &mut self.saves) {
                saves.request();
            }
            (0..self.sockets.len()).for_each(|index| self.end_serving(index));
            self.sockets.clear();
            if let Some(cluster) = &mut self.service.cluster {
                cluster.wind_up();
            }
            // Their events do not come twice.
            self.busy
                .retain(|token| [KEEPER, ORDERS, GROUP].contains(token));
            self.starved_at = None;
            self.connections.wind_up();
            self.stop_at = Some(now + FAREWELL);
        }
    }

    /// What is due with time and not with events.
    fn keep_house(&mut self, now: u64) {
        let was_held = self.is_held();
        if !was_held {
            self.connections.expire(now);
        }
        let is_other_list = match (&mut self.service.access, &mut self.keeper) {
            (Some(access), Some(keeper)) => access.step(keeper),
            _ => false,
        };
        if let Some(cluster) = self.service.cluster.as_mut().filter(|_| is_other_list) {
            cluster.node_mut().note_list();
        }
        self.fifos.report(now);
        if !was_held {
            self.save_on(now);
        }
        let progress = self.service.sweep(SWEEP_BUDGET);
        self.sweeping = progress == Progress::Underway || self.is_held();
        self.tell_of_hold(now);
        if progress == Progress::Finished {
            let torrents = self.service.tracker.totals().torrents;
            log::debug(format_args!("swept, {torrents} torrents left"));
        }
        if !was_held && self.starved_at.is_some_and(|at| at <= now) {
            self.retry_accepting(now);
        }
        if self.report_at.is_some_and(|at| at <= now) {
            self.report_at = Some(now + REPORT);
            for counts in stats::log_lines(&self.service.view()) {
                log::info(format_args!("{counts}"));
            }
        }
    }

    /// Logs the begin and the end of a hold that one slice of the sweep does not end.
    fn tell_of_hold(&mut self, now: u64) {
        match (self.held_since, self.is_held()) {
            (None, true) => {
                self.held_since = Some(now);
                log::line(format_args!(
                    "table: long pause: requests wait until expired peers are removed"
                ));
            }
            (Some(since), false) => {
                self.held_since = None;
                log::line(format_args!(
                    "table: expired peers removed: requests waited for {} ms",
                    now.saturating_sub(since)
                ));
            }
            _ => {}
        }
    }

    /// Begins the save that is due, or does a slice of the one that runs.
    fn save_on(&mut self, now: u64) {
        if self.is_partial() {
            return;
        }
        let (Some(saves), Some(keeper)) = (&mut self.saves, &mut self.keeper) else {
            return;
        };
        let tracker = &self.service.tracker;
        if saves.is_due(now) {
            saves.begin(tracker, keeper, now, wall_ms());
        } else {
            saves.step(tracker, keeper);
        }
        if keeper.is_busy() {
            self.is_busy_with(KEEPER);
        }
    }

    fn is_saving(&self) -> bool {
        self.saves.as_ref().is_some_and(|saves| !saves.is_idle())
    }

    /// Whether the end has come: replies have left or had their time, and the state is saved.
    fn has_stopped(&self, now: u64) -> bool {
        let stopping = self.stop_at;
        let is_over = stopping.is_some_and(|end| end <= now || self.connections.open() == 0);
        is_over && !self.is_saving() && !self.awaits_others()
    }

    /// Descriptors were all in use: whether there are some again.
    fn retry_accepting(&mut self, now: u64) {
        let due = self.starved_at;
        for i in 0..self.sockets.len() {
            self.turn(Token(FIRST_SOCKET + i), false, now);
        }
        if self.starved_at == due {
            self.starved_at = None;
            log::line(format_args!("accepting connections again"));
        }
    }
}
