//! CONNECT: a connection gets a session, a new one or the one that is there.

use std::sync::Arc;

use mainstem_log::Ends;
use mainstem_record::{Offset, PartitionId};

use super::{
    Session, SessionEntry, StartAt, State,
    inbox::{Feed, Mode, QueueLimits},
    store,
};
use crate::{
    caller::Caller,
    mqtt::{
        ConnectError, ConnectRequest, Connected, Disconnect, PublishError, Will,
        delivery::{Target, partitions_of},
        hub::Hub,
        limits::SESSIONS_MAX,
        topic,
    },
};

/// The longest client identifier: MQTT's strings carry a 16-bit length.
const CLIENT_ID_BYTES_MAX: usize = 65_535;

impl Hub {
    /// Gives a connection its session.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        caller: &Caller,
        mut request: ConnectRequest,
    ) -> Result<Connected, ConnectError> {
        if self.is_closing() {
            return Err(ConnectError::ShuttingDown);
        }
        self.check_connect(&request)?;
        if request.client_id.is_empty() {
            request.client_id = format!(
                "auto-{}",
                uuid::Uuid::from_bytes(self.core.env.random_uuid())
            );
        }
        let caller = Caller {
            client_id: Arc::from(request.client_id.as_str()),
            ..caller.clone()
        };
        loop {
            if self.core.is_cluster() {
                self.acquire(&caller).await?;
            }
            let entry = self.entry(&caller)?;
            let control = entry.control.lock().await;
            // It may have ended while we waited for it.
            if entry.state.lock().gone {
                continue;
            }
            let connected = self.connect_entry(&entry, &caller, &request).await;
            if connected.is_err() {
                self.discard_unused(&entry);
            }
            drop(control);
            return connected;
        }
    }

    fn check_connect(&self, request: &ConnectRequest) -> Result<(), ConnectError> {
        if request.client_id.len() > CLIENT_ID_BYTES_MAX || request.client_id.contains('\0') {
            return Err(ConnectError::ClientIdentifier);
        }
        // What was kept of the session is not known: it must not begin as a new one.
        if !request.client_id.is_empty() && !self.store.serves(request.client_id.as_bytes()) {
            return Err(ConnectError::Unavailable);
        }
        match &request.will {
            Some(will) => self.check_will(will),
            None => Ok(()),
        }
    }

    fn check_will(&self, will: &Will) -> Result<(), ConnectError> {
        let config = &self.core.config.mqtt;
        if !topic::is_legal_name(&will.topic)
            || will.topic.starts_with('$')
            || topic::level_count(&will.topic) > config.topic_levels_max
        {
            return Err(ConnectError::WillTopic);
        }
        let user = will
            .properties
            .user
            .iter()
            .map(|(name, value)| name.len() + value.len());
        let bytes = will.topic.len() + will.payload.len() + user.sum::<usize>();
        if bytes > config.will_bytes_max {
            return Err(ConnectError::WillTooLarge);
        }
        Ok(())
    }

    fn entry(&self, caller: &Caller) -> Result<Arc<SessionEntry>, ConnectError> {
        if let Some(entry) = self.sessions.get(&caller.client_id) {
            return Ok(entry.clone());
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(ConnectError::TooManySessions);
        }
        let fresh = || {
            let state = State::new(
                self.core.env.random_uuid(),
                caller.clone(),
                self.queue_limits(),
            );
            Arc::new(SessionEntry::new(
                self.next_number(),
                caller.client_id.clone(),
                state,
            ))
        };
        Ok(self
            .sessions
            .entry(caller.client_id.clone())
            .or_insert_with(fresh)
            .clone())
    }

    pub(crate) fn queue_limits(&self) -> QueueLimits {
        let config = &self.core.config.mqtt;
        QueueLimits {
            messages: config.queue_messages_max,
            bytes: config.queue_bytes_max,
        }
    }

    /// A connect that failed must not leave an empty session behind.
    fn discard_unused(&self, entry: &Arc<SessionEntry>) {
        let mut state = entry.state.lock();
        if state.online || state.is_persistent() || state.durable {
            return;
        }
        state.gone = true;
        drop(state);
        self.sessions.remove(&entry.client_id);
    }

    async fn connect_entry(
        self: &Arc<Self>,
        entry: &Arc<SessionEntry>,
        caller: &Caller,
        request: &ConnectRequest,
    ) -> Result<Connected, ConnectError> {
        let expiry_s = request
            .session_expiry_s
            .min(self.core.config.mqtt.session_expiry_s_max);
        let session_present = self.take_over(entry, request.clean_start).await;
        if !session_present {
            self.start_anew(entry).await;
        }
        let epoch = {
            let mut state = entry.state.lock();
            self.timers.cancel(&mut state.timers);
            state.epoch = next_epoch(state.epoch);
            state.publishes = 0;
            state.expiry_s = expiry_s;
            state.caller = caller.clone();
            state.will = request.will.clone();
            state.is_slow = false;
            state.online = true;
            state.epoch
        };
        self.online.insert(entry.number, entry.clone());
        let outbound = match self.record_owner(entry, epoch, expiry_s).await {
            Ok(()) => self.resume(entry).await.ok_or(ConnectError::Unavailable),
            Err(error) => Err(error),
        };
        let outbound = match outbound {
            Ok(outbound) => outbound,
            Err(error) => {
                let quietly = Disconnect {
                    publish_will: false,
                    session_expiry_s: None,
                };
                self.go_offline(entry, &quietly).await;
                return Err(error);
            }
        };
        let mut inbound_qos2: Vec<u16> = entry.state.lock().inbound.keys().copied().collect();
        inbound_qos2.sort_unstable();
        self.attach_feeds(entry);
        self.metrics.inflight.add(outbound.len() as i64);
        Ok(Connected {
            session: Session::new(self.clone(), entry.clone(), epoch),
            session_present,
            client_id: entry.client_id.to_string(),
            session_expiry_s: expiry_s,
            inbound_qos2,
            outbound,
        })
    }

    /// Ends the connection that has the session now, if one has, and fences it. Returns whether the
    /// session goes on.
    async fn take_over(self: &Arc<Self>, entry: &Arc<SessionEntry>, is_clean: bool) -> bool {
        let (goes_on, was_online) = {
            let mut state = entry.state.lock();
            let goes_on = !is_clean && state.is_persistent() && state.epoch > 0;
            // A will with a delay is not published if the session goes on in time
            // (MQTT 5.0 section 3.1.3.2.2).
            if goes_on && state.will.as_ref().is_some_and(|will| will.delay_s > 0) {
                state.will = None;
            }
            (goes_on, state.online)
        };
        if was_online {
            self.detach(entry);
            let mut state = entry.state.lock();
            state.epoch = next_epoch(state.epoch);
            drop(state);
            entry.notify.notify_one();
        }
        let will = entry.state.lock().will.take();
        if let Some(will) = will {
            let caller = entry.state.lock().caller.clone();
            self.spawn_will(caller, will);
        }
        goes_on
    }

    /// Forgets all that is known of an earlier session.
    async fn start_anew(self: &Arc<Self>, entry: &Arc<SessionEntry>) {
        let (keys, claim) = {
            let mut state = entry.state.lock();
            let claim = state.claim;
            let keys = state
                .durable
                .then(|| store::all_keys(&entry.client_id, &state));
            let groups = state
                .subscriptions
                .values()
                .filter_map(|sub| sub.group.clone());
            let groups: Vec<_> = groups.collect();
            self.reset(&mut state);
            drop(state);
            for group in groups {
                self.leave_group(&group, entry, false);
            }
            (keys, claim)
        };
        if let Some(keys) = keys {
            self.delete_records(&entry.client_id, keys, (claim, false))
                .await;
        }
    }

    fn reset(&self, state: &mut State) {
        state.id = self.core.env.random_uuid();
        state.subscriptions.clear();
        state.subscriptions_version += 1;
        state.inbound.clear();
        state.cursors.clear();
        state.inbox = super::inbox::Inbox::new(self.queue_limits());
    }

    /// The new owner epoch is durable before the client hears of it, if the session is to outlive
    /// the process.
    async fn record_owner(
        &self,
        entry: &Arc<SessionEntry>,
        epoch: u32,
        expiry_s: u32,
    ) -> Result<(), ConnectError> {
        let client = entry.client_id.clone();
        let build = move |state: &mut State| {
            // Of a clean session only the will must outlive a crash, and nobody waits for that.
            let needed = state.is_persistent() || state.will.is_some() || state.durable;
            if needed {
                vec![store::session(&client, state)]
            } else {
                Vec::new()
            }
        };
        match self.write(entry, epoch, build).await {
            Ok(Some(ticket)) if expiry_s > 0 => ticket
                .await
                .map(|_| ())
                .map_err(|_| ConnectError::Unavailable),
            // It has gone to another node meanwhile.
            Err(PublishError::Fenced) => Err(ConnectError::Unavailable),
            Err(_) if expiry_s > 0 => Err(ConnectError::Unavailable),
            _ => Ok(()),
        }
    }

    /// Subscriptions that are there begin to be pushed, and each partition goes on where it was
    /// left.
    fn attach_feeds(self: &Arc<Self>, entry: &Arc<SessionEntry>) {
        let subscriptions: Vec<_> = entry.state.lock().subscriptions.values().cloned().collect();
        if subscriptions.is_empty() {
            return;
        }
        let own = subscriptions
            .iter()
            .filter(|subscription| subscription.group.is_none());
        for subscription in own {
            let target = Target::Session(entry.clone(), subscription.clone());
            self.trie
                .write()
                .insert(&subscription.filter, entry.number, target);
        }
        self.metrics.subscriptions.add(subscriptions.len() as i64);
        // After the trie, so that a topic that is made meanwhile is seen here or by the refresh.
        let image = self.core.image();
        for topic in image.topics_by_id.values() {
            self.add_feeds(entry, &image, topic, StartAt::Left);
        }
        for subscription in subscriptions
            .iter()
            .filter(|subscription| subscription.group.is_some())
        {
            self.join_group(entry, subscription, &image);
        }
        entry.notify.notify_one();
    }

    /// Makes the session follow a topic that it wants and does not follow yet.
    pub(crate) fn add_feeds(
        self: &Arc<Self>,
        entry: &Arc<SessionEntry>,
        image: &mainstem_metadata::Image,
        topic: &mainstem_metadata::Topic,
        start: StartAt,
    ) {
        if topic.internal || !self.is_readable(topic) {
            return;
        }
        let starts = {
            let state = entry.state.lock();
            if !state.online {
                return;
            }
            let own = state
                .subscriptions
                .values()
                .filter(|sub| sub.group.is_none());
            let relevant: Vec<_> = own
                .filter(|sub| self.is_relevant(image, &sub.filter, topic))
                .cloned()
                .collect();
            if relevant.is_empty() {
                return;
            }
            let missing =
                partitions_of(topic).filter(|partition| !state.inbox.has_feed(*partition));
            let start_of = |partition: PartitionId| {
                let left = state.cursors.get(&partition).copied();
                left.unwrap_or_else(|| {
                    // Not there when any of them was made: it belongs to them from its beginning.
                    let starts = relevant.iter().map(|sub| sub.start(partition));
                    starts
                        .map(|start| start.unwrap_or(Offset::ZERO))
                        .min()
                        .unwrap_or(Offset::ZERO)
                })
            };
            missing
                .map(|partition| (partition, start_of(partition)))
                .collect::<Vec<_>>()
        };
        for (partition, left) in starts {
            self.add_feed(entry, topic, (partition, left), start);
        }
        entry.notify.notify_one();
    }

    fn add_feed(
        self: &Arc<Self>,
        entry: &SessionEntry,
        topic: &mainstem_metadata::Topic,
        (partition, left): (PartitionId, Offset),
        start: StartAt,
    ) {
        let Ok(opened) = self.core.reader(partition) else {
            return;
        };
        let Ok((position, interest)) = self.follow(topic, partition) else {
            return;
        };
        let ends = opened.ends();
        let mode = match start {
            StartAt::Left => Mode::Behind(self.left_off(left, &ends)),
            StartAt::End => Mode::Live(ends.committed_end),
        };
        let feed = Feed {
            mode,
            position,
            online_from: ends.committed_end,
            _interest: Some(interest),
        };
        let mut state = entry.state.lock();
        if state.online {
            state.cursors.remove(&partition);
            state.inbox.add_feed(partition, feed);
        }
    }
}

impl Hub {
    /// Where a feed goes on that was left at `left`.
    pub(crate) fn left_off(&self, left: Offset, ends: &Ends) -> Offset {
        match self.core.access() {
            // Above the end only if unsynced records were lost with the machine's power.
            None => left.min(ends.log_end),
            // Or because another node, which the session comes from, knew of more records: they
            // must not be given a second time.
            Some(_) => left,
        }
    }
}

/// The owner epoch after `epoch`. It orders QoS 2 sequences, so it may never go round.
fn next_epoch(epoch: u32) -> u32 {
    epoch.saturating_add(1)
}
