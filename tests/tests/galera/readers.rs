//! Clients that only ask, all the time.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use reel_client::{
    Client, ClientConfig, ClientError, FileId, Owner, Refusal, Selection, Span, UploadDetails,
    UploadSource, UserId, new_file_id,
};
use reel_tests::history::History;
use reel_tests::pulse::Pulse;
use reel_tests::seed::{Content, Seeded};
use reel_tests::uploaders::{impatient_client, owner};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Watch;
use crate::roles::Reel;

/// Files that are read all the time.
const STANDING: usize = 50;

/// Between two questions of a client, as the machine has others to serve.
const PAUSE: Duration = Duration::from_millis(20);

/// One of each kind, and what they know.
pub(crate) struct Readers {
    /// Waits for what goes wrong.
    pub(crate) patient: Client,
    client: Client,
    standing: Vec<(FileId, Content)>,
    /// Users who were given a group.
    pub(crate) users: Rc<Cell<u64>>,
}

impl Readers {
    /// Uploads what they will read.
    pub(crate) async fn new(reel: &Reel, history: &mut History, seeded: &mut Seeded) -> Self {
        let trackers = reel.trackers().into_iter().map(|tracker| tracker.to_string());
        let patient = Client::new(ClientConfig::new(trackers)).unwrap();
        let mut standing = Vec::new();
        for _ in 0..STANDING {
            let content = Content { seed: seeded.draw(), size: seeded.below(64 << 10) };
            let file = new_file_id().unwrap();
            let source = UploadSource::bytes(content.bytes());
            let details = UploadDetails::default();
            let result = patient.upload(&owner().file(file), &source, &details, &mut |_| {}).await;
            history.uploaded(file, content, &result);
            result.unwrap();
            standing.push((file, content));
        }
        let client = impatient_client(&reel.trackers()).unwrap();
        Self { patient, client, standing, users: Rc::default() }
    }

    /// Lets one of each kind ask until `stop`, on this thread.
    pub(crate) fn start(
        &self,
        watch: &Watch,
        seeded: &mut Seeded,
        stop: &Rc<Cell<bool>>,
    ) -> JoinSet<()> {
        let mut running = JoinSet::new();
        let (standing, mut drawn) = (self.standing.clone(), seeded.branch());
        self.ask(&mut running, &watch.reads, stop, async move |client: &Client| {
            let (file, content) = standing[drawn.below(standing.len() as u64) as usize];
            let bytes = whole(client, file).await?;
            assert_eq!(bytes, content.bytes(), "{file}");
            Ok(())
        });
        self.ask(&mut running, &watch.lookups, stop, async |client: &Client| {
            let of = Selection::of_user(owner().app, owner().user);
            let page = client.list(&of, None, 10).await?;
            assert_eq!(page.files.len(), 10);
            Ok(())
        });
        let users = Rc::clone(&self.users);
        self.ask(&mut running, &watch.newcomers, stop, async move |client: &Client| {
            let user = UserId::parse(&format!("new{}", users.get())).unwrap();
            client.locate(Owner { user, ..owner() }).await?;
            users.set(users.get() + 1);
            Ok(())
        });
        running
    }

    fn ask(
        &self,
        running: &mut JoinSet<()>,
        pulse: &Pulse,
        stop: &Rc<Cell<bool>>,
        mut ask: impl AsyncFnMut(&Client) -> Result<(), ClientError> + 'static,
    ) {
        let (client, pulse, stop) = (self.client.clone(), pulse.clone(), Rc::clone(stop));
        running.spawn_local(async move {
            while !stop.get() {
                match ask(&client).await {
                    Ok(()) => pulse.beat(),
                    Err(error) => assert_ne!(error.refusal(), Some(Refusal::NoSuchFile)),
                }
                sleep(PAUSE).await;
            }
        });
    }
}

async fn whole(client: &Client, file: FileId) -> Result<Vec<u8>, ClientError> {
    let mut download = client.download(&owner().file(file), Span::whole()).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = download.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}
