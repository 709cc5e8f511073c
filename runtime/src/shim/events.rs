//! What containerd is told: each event in its order, again and again until containerd has taken it.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use containerd_shim_protos::{
    api::ForwardRequest,
    events::task::{
        TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM, TaskPaused, TaskResumed,
        TaskStart,
    },
    shim::event::Envelope,
    shim_async::EventsClient,
};
use protobuf::{Message, MessageField, well_known_types::any::Any};
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
};
use ttrpc::{
    r#async::{Client, transport::Socket},
    context::{self, Context},
};

use super::metrics::timestamp;

/// The time between two attempts to reach a containerd that is not there.
const PAUSE: Duration = Duration::from_millis(500);

/// How long containerd may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// What happened to a task.
pub trait Event: Message {
    /// Under which containerd files it.
    const TOPIC: &str;
}

macro_rules! events {
    ($($message:ident $topic:literal,)*) => {$(
        impl Event for $message {
            const TOPIC: &str = $topic;
        }
    )*};
}

events! {
    TaskCreate "/tasks/create",
    TaskStart "/tasks/start",
    TaskOOM "/tasks/oom",
    TaskExit "/tasks/exit",
    TaskDelete "/tasks/delete",
    TaskExecAdded "/tasks/exec-added",
    TaskExecStarted "/tasks/exec-started",
    TaskPaused "/tasks/paused",
    TaskResumed "/tasks/resumed",
}

/// Tells containerd. Events wait here while it is not there.
#[derive(Debug)]
pub struct Publisher {
    namespace: String,
    queue: mpsc::UnboundedSender<Envelope>,
    pending: Arc<watch::Sender<usize>>,
}

impl Publisher {
    /// For the containerd that listens on `socket` for events. Called inside a tokio runtime.
    pub fn start(socket: PathBuf, namespace: &str) -> Self {
        let (queue, mut events) = mpsc::unbounded_channel::<Envelope>();
        let pending = Arc::new(watch::Sender::new(0_usize));
        let left = Arc::clone(&pending);
        tokio::spawn(async move {
            let mut containerd = None;
            while let Some(event) = events.recv().await {
                deliver(&socket, &mut containerd, event).await;
                left.send_modify(|pending| *pending = pending.saturating_sub(1));
            }
        });
        Self {
            namespace: namespace.to_owned(),
            queue,
            pending,
        }
    }

    /// Tells of an event after those that were told before.
    pub fn publish<E: Event>(&self, event: &E) {
        let value = match event.write_to_bytes() {
            Ok(value) => value,
            Err(error) => return tracing::error!(%error, topic = E::TOPIC, "event not encoded"),
        };
        let envelope = Envelope {
            timestamp: MessageField::some(timestamp(SystemTime::now())),
            namespace: self.namespace.clone(),
            topic: E::TOPIC.to_owned(),
            event: MessageField::some(Any {
                type_url: format!("containerd.events.{}", E::NAME),
                value,
                ..Any::default()
            }),
            ..Envelope::default()
        };
        self.pending.send_modify(|pending| *pending += 1);
        // The receiver lives as long as the runtime.
        let _ = self.queue.send(envelope);
    }

    /// Waits until containerd has taken all events.
    pub async fn delivered(&self) {
        // The sender is ours, so it cannot have gone.
        let _ = self.pending.subscribe().wait_for(|pending| *pending == 0).await;
    }
}

/// Returns when containerd has taken the event, or has said that it never will.
async fn deliver(socket: &PathBuf, containerd: &mut Option<EventsClient>, event: Envelope) {
    let topic = event.topic.clone();
    let request = ForwardRequest {
        envelope: MessageField::some(event),
        ..ForwardRequest::default()
    };
    loop {
        if containerd.is_none() {
            *containerd = UnixStream::connect(socket)
                .await
                .ok()
                .map(|stream| EventsClient::new(Client::new(Socket::new(stream))));
        }
        if let Some(client) = containerd.as_ref() {
            match client.forward(context_of(&request), &request).await {
                Ok(_) => return tracing::debug!(topic, "event"),
                Err(ttrpc::Error::RpcStatus(status)) => {
                    return tracing::error!(topic, "containerd refuses an event: {}", status.message);
                }
                Err(error) => tracing::debug!(%error, topic, "event not taken yet"),
            }
            *containerd = None;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn context_of(request: &ForwardRequest) -> Context {
    let mut context = context::with_duration(ANSWER);
    context.add(
        "containerd-namespace-ttrpc".to_owned(),
        request.envelope.namespace.clone(),
    );
    context
}
