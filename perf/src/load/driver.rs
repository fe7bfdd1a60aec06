//! The loop of one generator thread: takes what is ready, sends what is due, counts what came.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{
    arrival::Arrivals,
    connection::{self, Connection, Progress, SCRATCH_BYTES},
    dialect::Verdict,
    plan::{Plan, Share},
    request::Requests,
    tally::{Reading, Tally},
};
use crate::sys::{epoll::Epoll, process};

/// How long a thread looks again and again before it sleeps. A generator that slept between two answers would make the
/// server pay for waking it, by an interrupt to another core, which in a virtual machine costs more than the answer.
const SPIN: Duration = Duration::from_micros(200);

/// Longest sleep: how late the end of the counted time may be noticed.
const SLEEP_MAX: Duration = Duration::from_millis(5);

/// Longest wait for answers that are still on their way at the end.
const LINGER: Duration = Duration::from_secs(10);

/// Broken connections after which no further request is sent: something is wrong, and the counts so far say what.
const BROKEN_MAX: u64 = 1000;

/// One thread of a load.
pub(crate) struct Driver<'a> {
    plan: &'a Plan,
    leads: bool,
    epoll: Epoll,
    connections: Vec<Connection>,
    requests: Requests,
    arrivals: Arrivals,
    tally: Tally,
    scratch: Vec<u8>,
    start: Instant,
    // The one that was idle the longest comes next: a server may end one that nobody uses.
    idle: VecDeque<usize>,
    begun: u64,
    warm_at: u64,
    count_max: u64,
    is_out_of_requests: bool,
}

/// Where a load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Counted,
    Over,
}

impl<'a> Driver<'a> {
    pub(crate) fn new(plan: &'a Plan, share: &Share) -> Result<Self> {
        if let Some(core) = share.core {
            process::pin(core).with_context(|| format!("pinning a generator to core {core}"))?;
        }
        let epoll = Epoll::new()?;
        let connections = connection::open_all(plan.target, share.connections)?;
        for (index, connection) in connections.iter().enumerate() {
            epoll.add(connection.stream(), index)?;
        }
        let of = share.of as f64;
        Ok(Self {
            plan,
            leads: share.index == 0,
            epoll,
            requests: Requests::new(plan, share)?,
            arrivals: Arrivals::new(plan.rate.map(|rate| rate / of)),
            tally: Tally::new()?,
            scratch: vec![0; SCRATCH_BYTES],
            start: Instant::now(),
            idle: (0..connections.len()).collect(),
            connections,
            begun: 0,
            warm_at: plan.warmup_ms * 1_000_000,
            count_max: plan.count_max.map_or(u64::MAX, |max| max / share.of as u64),
            is_out_of_requests: false,
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Runs the load to its end.
    pub(crate) fn run(mut self) -> Result<Tally> {
        let over_at = self.warm_at + self.plan.measure_ms * 1_000_000;
        self.start = Instant::now();
        let mut phase = Phase::WarmUp;
        let mut ready = Vec::new();
        let mut spun_since = self.now();
        while phase != Phase::Over {
            let now = self.now();
            phase = self.next_phase(phase, now, over_at)?;
            self.send_due(now, phase)?;
            let sleep = self.may_sleep(now, spun_since);
            let looked_at = self.now();
            self.epoll.wait(sleep, &mut ready)?;
            let looked_until = self.now();
            if ready.is_empty() || !sleep.is_zero() {
                self.tally.waited(looked_until - looked_at, phase == Phase::Counted);
            }
            if !ready.is_empty() {
                spun_since = looked_until;
            }
            for &index in &ready {
                self.drive(index, phase)?;
            }
        }
        self.linger(over_at, &mut ready)?;
        Ok(self.tally)
    }

    fn next_phase(&mut self, phase: Phase, now: u64, over_at: u64) -> Result<Phase> {
        let finished = self.is_out_of_requests && self.idle.len() == self.connections.len();
        let next = match phase {
            Phase::WarmUp if now >= self.warm_at => Phase::Counted,
            Phase::Counted if now >= over_at || finished => Phase::Over,
            phase => phase,
        };
        if next != phase && self.leads {
            let reading = Some(Reading::take(self.plan, now)?);
            match next {
                Phase::Counted => self.tally.begin = reading,
                _ => self.tally.end = reading,
            }
        }
        Ok(next)
    }

    /// Puts requests that are due on connections that are free.
    fn send_due(&mut self, now: u64, phase: Phase) -> Result<()> {
        while !self.idle.is_empty() && !self.is_out_of_requests {
            let Some(meant_at) = self.arrivals.take(now) else { return Ok(()) };
            let Some(index) = self.idle.pop_front() else { return Ok(()) };
            self.begin(index, meant_at);
            self.drive(index, phase)?;
        }
        Ok(())
    }

    fn begin(&mut self, index: usize, meant_at: u64) {
        self.begun += 1;
        let every = self.plan.check_every.max(1);
        let checks =
            self.begun <= self.connections.len() as u64 || self.begun.is_multiple_of(every);
        let more = self.begun <= self.count_max
            && self.connections[index].begin(&mut self.requests, meant_at, checks);
        if !more {
            self.is_out_of_requests = true;
            self.idle.push_back(index);
        }
    }

    /// Moves a connection on: also from answer to request to answer, as long as it need not wait.
    fn drive(&mut self, index: usize, phase: Phase) -> Result<()> {
        loop {
            let connection = &mut self.connections[index];
            match connection.advance(&self.requests, &mut self.scratch) {
                Ok(Progress::Blocked) => return Ok(()),
                Ok(Progress::Answered(answer)) => {
                    let meant_at = connection.meant_at;
                    self.tally.judged(&answer);
                    if answer.verdict != Verdict::Done {
                        self.tally.refusal(connection.refusal());
                    }
                    let now = self.now();
                    // In an open loop what was due before the counted time is of the warm-up, however late it came.
                    let is_counted = !self.arrivals.is_open() || meant_at >= self.warm_at;
                    if phase == Phase::Counted && is_counted {
                        self.tally.answered(&answer, now.saturating_sub(meant_at));
                    }
                    if self.connections[index].closes() && phase != Phase::Over {
                        self.renew(index)?;
                    }
                    let due = match phase {
                        Phase::Over => None,
                        _ if self.is_out_of_requests => None,
                        _ => self.arrivals.take(now),
                    };
                    match due {
                        Some(due) => self.begin(index, due),
                        None => self.idle.push_back(index),
                    }
                    if !self.connections[index].is_busy() {
                        return Ok(());
                    }
                }
                Err(error) => {
                    self.replace(index, &error)?;
                    return Ok(());
                }
            }
        }
    }

    fn replace(&mut self, index: usize, error: &anyhow::Error) -> Result<()> {
        self.tally.error(format!("{error:#}"));
        self.idle.push_back(index);
        if self.tally.broken > BROKEN_MAX {
            self.connections[index].give_up();
            self.is_out_of_requests = true;
            return Ok(());
        }
        self.renew(index).with_context(|| format!("connecting again after: {error:#}"))
    }

    fn renew(&mut self, index: usize) -> Result<()> {
        let connection = Connection::open(self.plan.target)?;
        self.epoll.add(connection.stream(), index)?;
        self.connections[index] = connection;
        Ok(())
    }

    fn may_sleep(&self, now: u64, spun_since: u64) -> Duration {
        if Duration::from_nanos(now.saturating_sub(spun_since)) < SPIN {
            return Duration::ZERO;
        }
        match self.arrivals.next_at() {
            // epoll sleeps whole milliseconds: the last one before an arrival is spent looking.
            Some(at) if !self.idle.is_empty() => {
                let left = Duration::from_nanos(at.saturating_sub(now));
                left.saturating_sub(Duration::from_millis(1)).min(SLEEP_MAX)
            }
            _ => SLEEP_MAX,
        }
    }

    /// Takes the answers that are still on their way. In an open loop they count: their requests were due in time.
    fn linger(&mut self, over_at: u64, ready: &mut Vec<usize>) -> Result<()> {
        if self.arrivals.is_open() && !self.is_out_of_requests {
            while let Some(due) = self.arrivals.take(over_at.saturating_sub(1)) {
                self.tally.never_sent(over_at - due);
            }
        }
        let phase = if self.arrivals.is_open() { Phase::Counted } else { Phase::Over };
        self.is_out_of_requests = true;
        let begin = Instant::now();
        while self.connections.iter().any(Connection::is_busy) && begin.elapsed() < LINGER {
            self.epoll.wait(SLEEP_MAX, ready)?;
            for &index in &*ready {
                self.drive(index, phase)?;
            }
        }
        let late = self.connections.iter().filter(|connection| connection.is_busy()).count();
        if late > 0 {
            self.tally.error(format!("{late} answers did not come within {LINGER:?}"));
        }
        Ok(())
    }
}
