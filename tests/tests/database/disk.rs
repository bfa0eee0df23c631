//! A disk that is full, and one that is nearly so: a small file system of its own for one node's database.

use crate::dev;
use crate::world::{HEALED, World};
use crate::writers::well;
use anyhow::{Context, Result, ensure};
use nix::fcntl::posix_fallocate;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Size of the disk: critical below 5 % (51 MiB), full below 16 MiB.
const DISK: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// Of the reserve file of a development cluster.
const RESERVE: u64 = 32 * MIB;
/// A server that waits for room looks once a minute.
const MINUTES: Duration = Duration::from_secs(180);

/// An ext4 in a file, mounted on a node's database folder; gone at the end.
#[derive(Default)]
struct Small {
    image: PathBuf,
    mounted: Option<PathBuf>,
}

impl Small {
    /// Moves the folder's content there.
    fn mount(&mut self, image: &Path, folder: &Path) -> Result<()> {
        image.clone_into(&mut self.image);
        fs::File::create(image)?.set_len(DISK)?;
        tool("mkfs.ext4", &["-q", "-m", "0", &image.display().to_string()])?;
        let there = folder.with_extension("there");
        fs::rename(folder, &there)?;
        fs::create_dir(folder)?;
        let mounted =
            tool("mount", &["-o", "loop", &image.display().to_string(), &folder.display().to_string()]);
        if mounted.is_ok() {
            self.mounted = Some(folder.to_owned());
        }
        tool("cp", &["-a", &format!("{}/.", there.display()), &folder.display().to_string()])?;
        fs::remove_dir_all(there)?;
        mounted
    }

    fn file(&self, name: &str) -> PathBuf {
        self.mounted.as_deref().unwrap_or(Path::new("/nowhere")).join(name)
    }

    fn free(&self) -> Result<u64> {
        let found = nix::sys::statvfs::statvfs(&self.file(""))?;
        Ok(found.blocks_available() * found.fragment_size())
    }

    /// Takes all but so many bytes.
    fn fill(&self, leave: u64) -> Result<()> {
        let file = fs::OpenOptions::new().create(true).append(true).open(self.file("filler"))?;
        let (mut length, mut piece) = (file.metadata()?.len(), 64 * MIB);
        while piece >= 4096 {
            let fits = self.free()? >= leave + piece;
            if fits && posix_fallocate(&file, length.cast_signed(), piece.cast_signed()).is_ok() {
                length += piece;
            } else {
                piece /= 2;
            }
        }
        ensure!(self.free()? <= leave + MIB, "{} bytes are free", self.free()?);
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        Ok(fs::remove_file(self.file("filler"))?)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let Some(folder) = &self.mounted else { return };
        if let Err(error) = tool("umount", &["-l", &folder.display().to_string()]) {
            eprintln!("{} stays mounted: {error:#}", folder.display());
        }
    }
}

fn tool(name: &str, arguments: &[&str]) -> Result<()> {
    let done = Command::new(name).args(arguments).output().with_context(|| format!("cannot start {name}"))?;
    ensure!(done.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

fn line<'a>(status: &'a Value, node: &str) -> &'a Value {
    let nodes = status["nodes"].as_array();
    nodes.and_then(|nodes| nodes.iter().find(|line| line["name"] == node)).unwrap_or(&Value::Null)
}

/// Until it does: on a busy machine an order may be in vain, as an heir that is late.
async fn lead(world: &World, node: &str) {
    let begin = Instant::now();
    let leads = |status: &Value| status["database"]["primary"] == node && well(status);
    while begin.elapsed() < MINUTES {
        if let Err(error) = world.run(&["database", "switchover", node]) {
            println!("not yet: {}", error.to_string().lines().next().unwrap_or_default());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if world.until("it leads", Duration::from_secs(15), leads).await.is_ok() {
            return;
        }
    }
    panic!("{node} does not lead{}", world.logs());
}

/// The disk of the primary runs full under writers: another node goes on without a lost row, the old one frees its
/// reserve, follows again once there is room, and makes the reserve again. Then its disk is nearly full: it hands over
/// before anything fails, is not led to, and nothing goes back and forth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_and_a_nearly_full_one_hands_over() {
    let _machine = crate::MACHINE.lock().await;
    let scratch = tempfile::Builder::new().prefix("elpis-disk").tempdir().unwrap();
    // In this order: the cluster goes, then the mount, then the folder.
    let mut small = Small::default();
    let mut world = World::up(&dev::program(), 3, Some(scratch.path().join("c"))).unwrap();
    world.write(3).await.unwrap();
    world.written_again(Instant::now(), HEALED).await.unwrap();
    world.healed().await.unwrap();
    let node = world.ackers().await.unwrap().pop().unwrap();
    world.run(&["dev", "kill", &node]).unwrap();
    if let Err(error) = small.mount(&scratch.path().join("image"), &world.dir().join(&node).join("database"))
    {
        println!("skipped: this machine mounts no file system for the test: {error:#}");
        return;
    }
    world.run(&["dev", "start", &node]).unwrap();
    // A file below a file below the machine's disk: slow on a busy one.
    world.until("three copies", MINUTES, well).await.unwrap();
    let kept = |status: &Value| line(status, &node)["disk"]["reserve_bytes"] == RESERVE;
    world.until("a reserve file", HEALED, kept).await.unwrap();
    lead(&world, &node).await;
    let log = || fs::read_to_string(world.dir().join(&node).join("log/node.log")).unwrap();
    let rebuilt = || log().matches("Rebuild {").count();
    let before = rebuilt();

    let begin = Instant::now();
    small.fill(0).unwrap();
    let freed = |status: &Value| {
        let disk = &line(status, &node)["disk"];
        status["database"]["primary"] != node.as_str()
            // Its line is written when it has opened.
            && status["database"]["moved"][0]["epoch"] == status["database"]["epoch"]
            && disk["reserve_bytes"] == 0
            && disk["reserve_wanted_bytes"] == RESERVE
    };
    let status = world.until("another one leads, the reserve is freed", HEALED, freed).await.unwrap();
    let reason = status["database"]["moved"][0]["reason"].as_str().unwrap_or_default().to_owned();
    world.written_again(Instant::now(), HEALED).await.unwrap();
    println!(
        "full: another one leads after {:?}, longest pause {:?}, {reason}",
        begin.elapsed(),
        world.writers.longest_pause(begin)
    );
    assert!(
        ["its disk is full", "its server ended", "it did not write"].contains(&reason.as_str()),
        "{reason}"
    );
    // What was freed is enough to start and to follow.
    let position = |status: &Value, node: &str| line(status, node)["database"]["position"].as_u64();
    let reached = position(&status, status["database"]["primary"].as_str().unwrap());
    assert!(reached > Some(0), "{status}");
    let follows = |status: &Value| position(status, &node) >= reached;
    world.until("the old primary follows", MINUTES, follows).await.unwrap();
    small.clear().unwrap();
    let healed = world.until("well again", MINUTES, |status| well(status) && kept(status)).await;
    println!("room again: well after {:?}", begin.elapsed());
    healed.unwrap();
    world.judge().await.unwrap();
    assert!(log().contains("is freed, so that the server can start"), "it is said");
    assert_eq!(rebuilt(), before, "a full disk is no reason for a new copy");

    lead(&world, &node).await;
    let epoch = world.status().await.unwrap()["database"]["epoch"].as_u64().unwrap();
    let begin = Instant::now();
    small.fill(40 * MIB).unwrap();
    let moved = |status: &Value| status["database"]["primary"] != node.as_str() && well(status);
    let status = world.until("it hands over", MINUTES, moved).await.unwrap();
    println!(
        "nearly full: handed over after {:?}, longest pause {:?}",
        begin.elapsed(),
        world.writers.longest_pause(begin)
    );
    assert_eq!(status["database"]["moved"][0]["reason"], "its disk is nearly full", "{}", status["database"]);
    assert_eq!(status["database"]["epoch"], epoch + 1);
    assert_eq!(line(&status, &node)["disk"]["room"], "critical", "{status}");
    let text = world.run(&["cluster", "status"]).unwrap();
    assert!(text.contains("is nearly full") && text.contains("CRITICAL, "), "{text}");
    let refused = world.run(&["database", "switchover", &node]).unwrap_err().to_string();
    assert!(refused.contains("is nearly full"), "{refused}");
    // Longer than the pause before the next move.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(world.status().await.unwrap()["database"]["epoch"], epoch + 1, "it stays where room is");
    small.clear().unwrap();
    let enough = |status: &Value| well(status) && line(status, &node)["disk"]["room"] == "enough";
    world.until("room again", MINUTES, enough).await.unwrap();
    world.judge().await.unwrap();
}
