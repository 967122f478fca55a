use std::{collections::BTreeMap, io::IoSlice};

use mainstem_env::MemFs;
use mainstem_record::BrokerId;

use super::*;
use crate::image::Roles;

const DIR: &str = "/data";

struct Machine {
    env: Env,
}

impl Machine {
    fn new() -> Self {
        let env = Env::real().with_fs(Arc::new(MemFs::new()));
        let machine = Self { env };
        machine.boot("one");
        machine
    }

    fn boot(&self, id: &str) {
        let dir = Path::new(BOOT_ID_PATH).parent().expect("a directory");
        self.env.fs.create_dir_all(dir).expect("made");
        let open = self
            .env
            .fs
            .open(Path::new(BOOT_ID_PATH), OpenMode::Truncate);
        let text = format!("{id}\n");
        let slices = [IoSlice::new(text.as_bytes())];
        open.expect("open")
            .write_all_vectored_at(&slices, 0)
            .expect("written");
    }

    async fn load(&self) -> Life {
        Life::load(&self.env, Path::new(DIR)).await.expect("loaded")
    }

    /// A life that registers and runs.
    async fn live(&self, incarnation: u64) -> Life {
        let life = self.load().await;
        life.prepare(request(incarnation)).await.expect("noted");
        life.begin(Incarnation(incarnation)).await.expect("noted");
        life
    }

    async fn claim(&self, current: u64) -> (Option<u64>, Option<u64>) {
        let claim = self.load().await.claim(Some(&registered(current)));
        let number = |life: Option<Incarnation>| life.map(|life| life.0);
        (number(claim.intact), number(claim.directory_life))
    }
}

fn request(incarnation: u64) -> Uuid {
    Uuid::from_u128(u128::from(incarnation) + 1000)
}

fn registered(incarnation: u64) -> Broker {
    Broker {
        id: BrokerId(1),
        incarnation: Incarnation(incarnation),
        directory_id: Uuid::from_u128(1),
        listeners: BTreeMap::new(),
        peer: None,
        roles: Roles::default(),
        fenced: false,
        draining: false,
        lost: false,
        request: request(incarnation),
    }
}

#[tokio::test]
async fn killed_process_is_intact_in_the_same_boot_and_a_power_cut_is_not() {
    let machine = Machine::new();
    assert_eq!(machine.claim(4).await, (None, None));
    machine.live(4).await;
    assert_eq!(machine.claim(4).await, (Some(4), Some(4)));
    machine.boot("two");
    assert_eq!(machine.claim(4).await, (None, Some(4)));
}

#[tokio::test]
async fn clean_end_holds_over_a_boot_for_its_own_life_only() {
    let machine = Machine::new();
    machine.live(4).await.end().await.expect("noted");
    machine.boot("two");
    assert_eq!(machine.claim(4).await, (Some(4), Some(4)));
    assert_eq!(machine.claim(5).await, (None, None));
    // The next life takes the clean end away before it acknowledges anything.
    machine.live(5).await;
    machine.boot("three");
    assert_eq!(machine.claim(5).await, (None, Some(5)));
}

#[tokio::test]
async fn a_failing_disk_leaves_no_proof_but_the_directory() {
    let machine = Machine::new();
    let life = machine.live(4).await;
    life.doubt().await.expect("noted");
    assert_eq!(machine.claim(4).await, (None, Some(4)));
    life.end().await.expect("noted");
    assert_eq!(machine.claim(4).await, (None, Some(4)));
}

#[tokio::test]
async fn restored_directory_names_an_older_life() {
    let machine = Machine::new();
    let path = Path::new(DIR).join(LIFE_FILE);
    machine.live(4).await.end().await.expect("noted");
    let copy = machine.env.fs.read(&path, 10_000).expect("read");
    machine.live(5).await;
    machine.env.fs.write_atomic(&path, &copy).expect("restored");
    assert_eq!(machine.claim(5).await, (None, None));
}

#[tokio::test]
async fn registration_that_died_before_it_was_noted_loses_no_proof() {
    let machine = Machine::new();
    machine.live(4).await.end().await.expect("noted");
    machine
        .load()
        .await
        .prepare(request(5))
        .await
        .expect("noted");
    machine.boot("two");
    // Not applied, or applied and the answer lost.
    assert_eq!(machine.claim(4).await, (Some(4), Some(4)));
    assert_eq!(machine.claim(5).await, (Some(5), Some(5)));
    // The life of another request is not ours.
    assert_eq!(machine.claim(6).await, (None, None));
}

#[tokio::test]
async fn damaged_note_proves_nothing() {
    let machine = Machine::new();
    machine.live(4).await;
    let path = Path::new(DIR).join(LIFE_FILE);
    let text = machine.env.fs.read(&path, 10_000).expect("read");
    let text = String::from_utf8(text).expect("text");
    let other = text.replace("\"incarnation\": 4", "\"incarnation\": 5");
    assert_ne!(text, other);
    let write = |bytes: &str| machine.env.fs.write_atomic(&path, bytes.as_bytes());
    write(&other).expect("written");
    assert_eq!(machine.claim(5).await, (None, None));
    write("{").expect("written");
    assert_eq!(machine.claim(4).await, (None, None));
}
