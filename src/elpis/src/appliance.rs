//! `elpis appliance …`: what the units of an appliance run. `elpis_appliance` decides, this does it.

mod audit;
mod install;
mod join;
pub(crate) mod machine;
mod own;
mod owners;
mod previous;
mod screen;
mod source;
mod stick;
mod tools;
mod update;

use crate::cli::Appliance;
use crate::find::Cluster;
use anyhow::{Context, Result, bail};
use elpis_appliance::answers::{Address, Answers, Join, time_sources};
use elpis_appliance::disk::{Choice, choice_of};
use elpis_appliance::identity::Identity;
use elpis_appliance::view::{Facts, Level, headline, is_kept};
use elpis_cluster::agent::Status;
use elpis_watch::Method;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::sleep;

/// What is kept: name, keys, Raft log, spool, database.
const STATE: &str = "/var/lib/elpis";
const IDENTITY: &str = "/var/lib/elpis/identity.json";
/// Answers that the status screen and an installation write.
const ANSWERS: &str = "/var/lib/elpis/answers";
/// Settings of the units, made at each start.
const ENVIRONMENT: &str = "/run/elpis-setup/environment";
/// Where chrony reads whom to ask, made at each start.
const TIME: &str = "/run/elpis-setup/time/elpis.sources";
/// Where the journal goes, made at each start: what `elpis-log-forwarder` is started with; without it, it is not.
const LOG_SERVER: &str = "/run/elpis-setup/log-server";
/// What that unit says is wrong.
const LOG_TROUBLE: &str = "/run/elpis-log-forwarder/trouble";
/// Settings of the network that hold until the next start.
const NETWORKS: &str = "/run/systemd/network";
const COMMAND_LINE: &str = "/proc/cmdline";
const LOOK: Duration = Duration::from_millis(500);
/// An address is there long before, where there is one to be had.
const LONG_MS: i64 = 60_000;

pub(crate) fn main(order: &Appliance) -> ExitCode {
    let done =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Into::into).and_then(
            |runtime| {
                runtime.block_on(async {
                    match order {
                        Appliance::Owners => owners::run(),
                        Appliance::Stick => stick::read(),
                        Appliance::Setup { answers: Some(file) } => own::setup(file).await,
                        Appliance::Setup { answers: None } => setup().await,
                        Appliance::Form => join::form(answers()?.0.join.as_ref()).await,
                        Appliance::Join { address, words, confirm } => {
                            let join = Join { address: address.clone(), words: words.join(" ") };
                            let said = join::order(&Cluster::of_machine(), &join, confirm.as_deref()).await?;
                            println!("{said}");
                            Ok(())
                        }
                        Appliance::Install { disk, erase } => {
                            let choice = Choice { disk: disk.clone(), erase: *erase };
                            println!("{}", install::order(&Cluster::of_machine(), &choice).await?);
                            install::follow().await
                        }
                        Appliance::WriteDisk { choice } => install::write_disk(
                            &choice_of(&choice.replace(':', " ")).map_err(anyhow::Error::msg)?,
                        ),
                        Appliance::Update => {
                            println!("{}", update::order()?);
                            install::follow().await
                        }
                        Appliance::Previous => {
                            println!("{}", previous::order()?);
                            install::follow().await
                        }
                        Appliance::TurnSlot => previous::turn(),
                        Appliance::WriteSlot => update::write(),
                        Appliance::Obey { orders } => machine::obey(orders),
                        Appliance::Verdict => update::verdict().await,
                        Appliance::Certificate => {
                            let said =
                                Cluster::of_machine().api(Method::GET, "/api/v1/certificate", None).await?;
                            println!("{}", said["sha256"].as_str().unwrap_or_default());
                            Ok(())
                        }
                        Appliance::Audit { json } => audit::run(*json),
                        Appliance::FactoryReset { confirm } => {
                            println!("{}", join::start_anew(&Cluster::of_machine(), confirm).await?);
                            Ok(())
                        }
                        Appliance::Reset => join::reset(),
                        Appliance::Screen => screen::run().await,
                        Appliance::Health => health().await,
                    }
                })
            },
        );
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("elpis: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn answers() -> Result<(Answers, Vec<String>)> {
    let mut text = fs::read_to_string(COMMAND_LINE).with_context(|| format!("cannot read {COMMAND_LINE}"))?;
    match fs::read_to_string(ANSWERS) {
        Ok(later) => text = format!("{text}\n{later}"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {ANSWERS}")),
    }
    Ok(Answers::parse(&text))
}

/// Name, then address: nothing can start without either.
async fn setup() -> Result<()> {
    make_folder(ENVIRONMENT)?;
    stick::take();
    let (first, wrong) = answers()?;
    for text in wrong {
        eprintln!("elpis: answers: {text}");
    }
    // Of an earlier run: the screen says that there is no address yet.
    let _ = fs::remove_file(ENVIRONMENT);
    let identity = Identity::read_or_make(Path::new(IDENTITY), first.name.as_deref())?;
    nix::unistd::sethostname(&identity.name).context("the host's name cannot be set")?;
    // A disk to install on is not kept.
    let install = first.install.or_else(stick::install);
    if let Some(choice) = install.filter(|_| !install::is_installed()) {
        return install::answered(&choice).await;
    }
    make_folder(TIME)?;
    fs::write(TIME, time_sources(&first.ntp)).with_context(|| format!("cannot write {TIME}"))?;
    match &first.logs {
        Some(server) => fs::write(LOG_SERVER, format!("ELPIS_LOG_SERVER={server}\n")),
        None => fs::remove_file(LOG_SERVER).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        }),
    }
    .with_context(|| format!("cannot write {LOG_SERVER}"))?;
    let mut set = None;
    let (address, answers) = loop {
        // A person may type one while DHCP gives none.
        let answers = answers()?.0;
        if set != Some(answers.address) {
            set_address(answers.address.as_ref())?;
            set = Some(answers.address);
        }
        let found = addresses();
        let wanted = answers.address.map(|wanted| wanted.ip);
        match wanted {
            Some(wanted) if found.contains(&wanted) => break (wanted, answers),
            None if !found.is_empty() => break (found[0], answers),
            _ => sleep(LOOK).await,
        }
    };
    write_environment(&identity.name, address, answers.plain.as_deref())?;
    println!("{} at {address}", identity.name);
    Ok(())
}

/// The folder that a file is written into.
fn make_folder(file: &str) -> Result<()> {
    let folder = Path::new(file).parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// What the units are started with. `plain`: networks whose agents may come without TLS.
fn write_environment(name: &str, address: Ipv4Addr, plain: Option<&str>) -> Result<()> {
    make_folder(ENVIRONMENT)?;
    let plain = plain.map(|networks| format!("--plain-from {networks}")).unwrap_or_default();
    let text = format!("ELPIS_NAME={name}\nELPIS_ADDRESS={address}\nELPIS_PLAIN={plain}\n");
    fs::write(ENVIRONMENT, text).with_context(|| format!("cannot write {ENVIRONMENT}"))
}

/// Tells the network; without an address, DHCP is asked.
fn set_address(wanted: Option<&Address>) -> Result<()> {
    let path = Path::new(NETWORKS).join("40-answered.network");
    match wanted {
        Some(wanted) => {
            let card = first_card().context("there is no wired network card")?;
            fs::create_dir_all(NETWORKS).with_context(|| format!("cannot make {NETWORKS}"))?;
            fs::write(&path, wanted.network_file(&card))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        None if path.exists() => {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        None => return Ok(()),
    }
    join::systemctl(&["restart", "systemd-networkd"])
}

/// IPv4 addresses of network cards that are up.
fn addresses() -> Vec<Ipv4Addr> {
    let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    let Ok(cards) = getifaddrs() else { return Vec::new() };
    cards
        .filter(|card| card.flags.contains(up) && !card.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .filter_map(|card| Some(card.address?.as_sockaddr_in()?.ip()))
        .collect()
}

/// The first wired network card by name.
fn first_card() -> Option<String> {
    let cards = getifaddrs().ok()?.map(|card| card.interface_name);
    cards.filter(|name| name.starts_with("en") || name.starts_with("eth")).min()
}

/// The address that the units were started with; before, none.
fn own_address() -> Option<String> {
    let text = fs::read_to_string(ENVIRONMENT).ok()?;
    text.lines().find_map(|line| line.strip_prefix("ELPIS_ADDRESS=")).map(str::to_owned)
}

async fn health() -> Result<()> {
    let node = Cluster::of_machine();
    let (facts, seen) = (facts(), status(&node).await);
    let (level, text) = headline(&facts, seen.as_ref());
    if matches!(level, Level::Bad | Level::Starting) {
        bail!("{text}");
    }
    node.api(Method::GET, "/api/v1/agents", None).await.context("the console")?;
    println!("{text}");
    Ok(())
}

async fn status(node: &Cluster) -> Option<Status> {
    let seen = node.node(Method::GET, "/v1/status", None).await.ok()?;
    serde_json::from_value(seen).ok()
}

fn facts() -> Facts {
    let name = Identity::read(Path::new(IDENTITY)).map(|identity| identity.name);
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let audit = audit::last();
    let address = own_address();
    let password = fs::read_to_string(Path::new(STATE).join("console/admin.password")).ok();
    Facts {
        version: update::version().unwrap_or_else(|_| env!("CARGO_PKG_VERSION").to_owned()),
        name,
        // systemd is asked only when it takes long.
        failed: if address.is_none() && elpis_watch::boottime_ms() > LONG_MS {
            tools::failed_unit()
        } else {
            None
        },
        address,
        live: !install::is_installed(),
        // Without it, nothing of before is there, and nothing may start.
        state_missing: install::is_installed() && !is_kept(&mounts, Path::new(STATE)),
        audit: audit.clone().filter(|(passed, _)| *passed).map(|(_, found)| found),
        work: tools::progress().map(|progress| (progress.work.label(), progress.line())),
        password: password.map(|text| text.trim().to_owned()),
        certificate: elpis_console::fingerprint(&Path::new(STATE).join("console/console.crt")).ok(),
        problems: answers()
            .map_or_else(|e| vec![format!("{e:#}")], |(_, wrong)| wrong)
            .into_iter()
            .chain(stick::mistakes())
            .chain(join::failed())
            .chain(update::fell_back())
            .chain(fs::read_to_string(LOG_TROUBLE).ok())
            .chain(audit.iter().filter(|(passed, _)| !passed).map(|(_, found)| format!("audit: {found}")))
            .collect(),
    }
}
