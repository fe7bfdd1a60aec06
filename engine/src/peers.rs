//! What a storage node says to one tracker, and when: join, beat, report, join again. No IO, no clock.
//!
//! The driver (`peers_io`) asks [`Membership::next`] what to do now, does it, and says how it went. Rules:
//! - a beat follows its join at once, then one each beat interval, on the same connection (a beat carries no port: the
//!   tracker knows the node by the join made on that connection);
//! - a refused beat means that the tracker forgot us (it restarted): the connection is given up and the join made
//!   again at once. Only if that join's own first beat is refused too is there a pause;
//! - our join (command 221) is tried first. A deployed tracker answers an unknown command with an error and closes;
//!   then the old join is made on a new connection. Which one worked is remembered for as long as it works;
//! - reports are sent only to a tracker that took our join: with the beats, and at once when an operator drains the node.

use std::time::{Duration, Instant};

/// The pause after the first failure; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// The longest pause between two tries, in practice how late a restarted tracker is noticed: below the beat interval
/// of 10 s, so that "whole again within one beat interval" holds.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What the driver sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Our join: advertised address, media port, flags.
    JoinExt,
    /// The join of the deployed system.
    Join,
    /// I am here.
    Beat,
    /// Space, load and state of the store paths.
    Report,
}

/// What the driver does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Connect afresh; then [`Membership::connected`] or [`Membership::lost`].
    Connect,
    /// Send this on the connection and read its reply; then [`Membership::accepted`], [`Membership::refused`] or
    /// [`Membership::lost`].
    Send(Message),
    /// Nothing before this moment.
    Wait(Instant),
}

/// Where the conversation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No connection; none before this moment.
    Apart { until: Option<Instant> },
    /// Connected, not joined.
    Connected,
    /// Joined; the next beat is due then.
    Joined { beat_at: Instant, report_at: Instant, beaten: bool },
}

/// The conversation with one tracker.
#[derive(Debug)]
pub(crate) struct Membership {
    beat_interval: Duration,
    state: State,
    /// The join to make: ours, or the deployed one.
    join: Message,
    /// Failures since the last accepted beat.
    failures: u32,
}

impl Membership {
    /// A conversation that has not begun.
    pub(crate) fn new(beat_interval: Duration) -> Self {
        Self {
            beat_interval,
            state: State::Apart { until: None },
            join: Message::JoinExt,
            failures: 0,
        }
    }

    /// Whether the tracker has taken a beat of the present connection.
    pub(crate) fn is_active(&self) -> bool {
        matches!(self.state, State::Joined { beaten: true, .. })
    }

    /// What to do now.
    pub(crate) fn next(&self, now: Instant) -> Action {
        match self.state {
            State::Apart { until: Some(until) } if now < until => Action::Wait(until),
            State::Apart { .. } => Action::Connect,
            State::Connected => Action::Send(self.join),
            State::Joined { beat_at, .. } if now >= beat_at => Action::Send(Message::Beat),
            State::Joined { report_at, .. } if self.reports() && now >= report_at => {
                Action::Send(Message::Report)
            }
            State::Joined { beat_at, report_at, .. } => {
                Action::Wait(if self.reports() { beat_at.min(report_at) } else { beat_at })
            }
        }
    }

    /// The connection stands.
    pub(crate) fn connected(&mut self) {
        self.state = State::Connected;
    }

    /// What the report says has changed, and must not wait for its time.
    pub(crate) fn report_now(&mut self, now: Instant) {
        if let State::Joined { report_at, .. } = &mut self.state {
            *report_at = now;
        }
    }

    /// The tracker took the message.
    pub(crate) fn accepted(&mut self, message: Message, now: Instant) {
        let interval = self.beat_interval;
        match (&mut self.state, message) {
            (state, Message::JoinExt | Message::Join) => {
                *state = State::Joined { beat_at: now, report_at: now, beaten: false };
            }
            (State::Joined { beat_at, beaten, .. }, Message::Beat) => {
                *beat_at = now + interval;
                *beaten = true;
                self.failures = 0;
            }
            (State::Joined { report_at, .. }, Message::Report) => *report_at = now + interval,
            (_, Message::Beat | Message::Report) => {}
        }
    }

    /// The tracker answered the message with an error frame; the driver closes the connection, but for a report. `unknown`: it
    /// may be that the tracker does not know the command, as a deployed one says of ours. Returns whether a person should hear
    /// of it: not where the protocol foresees the refusal.
    pub(crate) fn refused(&mut self, message: Message, unknown: bool, now: Instant) -> bool {
        match message {
            Message::JoinExt if unknown => {
                self.join = Message::Join;
                self.state = State::Apart { until: None };
                false
            }
            Message::Join | Message::JoinExt => {
                self.join = Message::JoinExt;
                self.pause(now);
                true
            }
            Message::Beat if self.is_active() => {
                self.join = Message::JoinExt;
                self.state = State::Apart { until: None };
                false
            }
            Message::Beat => {
                self.pause(now);
                true
            }
            // As where the clocks differ. The tracker took our join, and goes on with the beats and what it heard before: to it a
            // deployed node would have no media port, no drain, and room for uploads.
            Message::Report => {
                if let State::Joined { report_at, .. } = &mut self.state {
                    *report_at = now + self.beat_interval;
                }
                true
            }
        }
    }

    /// The connection failed, or the tracker did not answer in time.
    pub(crate) fn lost(&mut self, now: Instant) {
        if self.is_active() {
            // It worked until now: most likely a restart. The first try is made at once.
            self.join = Message::JoinExt;
            self.state = State::Apart { until: None };
        } else {
            self.pause(now);
        }
    }

    fn pause(&mut self, now: Instant) {
        let pause = PAUSE_MIN.saturating_mul(1 << self.failures.min(8)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.state = State::Apart { until: Some(now + pause.min(self.beat_interval)) };
    }

    /// Whether the tracker took our own join, and so knows our other commands.
    pub(crate) fn reports(&self) -> bool {
        self.join == Message::JoinExt && matches!(self.state, State::Joined { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(10);

    fn joined(member: &mut Membership, join: Message, now: Instant) {
        assert_eq!(member.next(now), Action::Connect);
        member.connected();
        assert_eq!(member.next(now), Action::Send(join));
        member.accepted(join, now);
    }

    fn active(member: &mut Membership, join: Message, now: Instant) {
        joined(member, join, now);
        assert_eq!(member.next(now), Action::Send(Message::Beat));
        member.accepted(Message::Beat, now);
        assert!(member.is_active());
    }

    #[test]
    fn a_beat_follows_its_join_at_once_then_one_each_interval() {
        let start = Instant::now();
        let mut member = Membership::new(BEAT);
        active(&mut member, Message::JoinExt, start);
        assert_eq!(member.next(start), Action::Send(Message::Report));
        member.accepted(Message::Report, start);
        assert_eq!(member.next(start), Action::Wait(start + BEAT));
        assert_eq!(member.next(start + BEAT), Action::Send(Message::Beat));
    }

    #[test]
    fn a_change_that_trackers_must_hear_of_is_reported_at_once() {
        let start = Instant::now();
        let mut member = Membership::new(BEAT);
        // Before it has joined there is nothing to do: the join says it, and a report follows.
        member.report_now(start);
        assert_eq!(member.next(start), Action::Connect);
        active(&mut member, Message::JoinExt, start);
        member.accepted(Message::Report, start);
        let soon = start + Duration::from_secs(1);
        assert_eq!(member.next(soon), Action::Wait(start + BEAT));
        member.report_now(soon);
        assert_eq!(member.next(soon), Action::Send(Message::Report));
        member.accepted(Message::Report, soon);
        assert_eq!(member.next(soon), Action::Wait(start + BEAT));
        let mut member = Membership::new(BEAT);
        assert_eq!(member.next(start), Action::Connect);
        member.connected();
        member.refused(Message::JoinExt, true, start);
        active(&mut member, Message::Join, start);
        member.report_now(soon);
        assert_eq!(member.next(soon), Action::Wait(start + BEAT), "a deployed one takes none");
    }

    #[test]
    fn an_old_tracker_gets_the_old_join_and_no_report() {
        let start = Instant::now();
        let mut member = Membership::new(BEAT);
        assert_eq!(member.next(start), Action::Connect);
        member.connected();
        assert!(!member.refused(Message::JoinExt, true, start));
        active(&mut member, Message::Join, start);
        assert_eq!(member.next(start), Action::Wait(start + BEAT));
        // Upgraded meanwhile: after the connection is lost ours is tried first.
        member.lost(start + BEAT);
        joined(&mut member, Message::JoinExt, start + BEAT);
    }

    #[test]
    fn a_join_that_is_refused_for_a_reason_is_not_made_in_another_way() {
        let start = Instant::now();
        let mut member = Membership::new(BEAT);
        assert_eq!(member.next(start), Action::Connect);
        member.connected();
        assert!(member.refused(Message::JoinExt, false, start));
        assert_eq!(member.next(start), Action::Wait(start + PAUSE_MIN));
        joined(&mut member, Message::JoinExt, start + PAUSE_MIN);
    }

    #[test]
    fn a_refused_report_leaves_the_node_as_it_joined() {
        let start = Instant::now();
        let mut member = Membership::new(BEAT);
        active(&mut member, Message::JoinExt, start);
        assert_eq!(member.next(start), Action::Send(Message::Report));
        assert!(member.refused(Message::Report, true, start));
        assert!(member.is_active() && member.reports());
        assert_eq!(member.next(start), Action::Wait(start + BEAT));
        assert_eq!(member.next(start + BEAT), Action::Send(Message::Beat));
        member.accepted(Message::Beat, start + BEAT);
        assert_eq!(
            member.next(start + BEAT),
            Action::Send(Message::Report),
            "the clocks may be set"
        );
        // Where the tracker has closed the connection the next beat finds that out.
        member.lost(start + BEAT);
        joined(&mut member, Message::JoinExt, start + BEAT);
    }

    #[test]
    fn a_refused_beat_joins_again_at_once() {
        let start = Instant::now();
        let mut member = Membership::new(BEAT);
        active(&mut member, Message::JoinExt, start);
        assert!(!member.refused(Message::Beat, true, start + BEAT));
        active(&mut member, Message::JoinExt, start + BEAT);
    }

    #[test]
    fn a_tracker_that_refuses_each_beat_or_join_is_not_hammered() {
        let mut now = Instant::now();
        let mut member = Membership::new(BEAT);
        joined(&mut member, Message::JoinExt, now);
        assert!(member.refused(Message::Beat, true, now));
        let mut tries = 0;
        let end = now + Duration::from_secs(60);
        while now < end {
            match member.next(now) {
                Action::Connect => {
                    tries += 1;
                    member.connected();
                }
                Action::Send(message) => {
                    member.refused(message, true, now);
                }
                Action::Wait(until) => now = until,
            }
        }
        assert!(tries < 50, "{tries} connections in a minute");
    }

    #[test]
    fn a_lost_tracker_is_tried_at_once_then_more_and_more_rarely() {
        let start = Instant::now();
        let mut member = Membership::new(BEAT);
        active(&mut member, Message::JoinExt, start);
        member.lost(start);
        assert!(!member.is_active());
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(member.next(now), Action::Connect);
            member.lost(now);
            if let Action::Wait(until) = member.next(now) {
                pauses.push(until - now);
                now = until;
            }
        }
        assert_eq!(pauses.first(), Some(&PAUSE_MIN));
        assert_eq!(pauses.last(), Some(&PAUSE_MAX));
    }
}
