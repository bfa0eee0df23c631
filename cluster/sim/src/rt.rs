//! openraft's runtime here: `openraft-rt-sim` with processes that can be paused and killed, and a clock for each host.
//!
//! Every task runs in a *cage* that belongs to a place (a process of a host). A cage of a dead place drops its task, a
//! cage of a paused place does not poll it. `Instant` is the monotonic clock of the host whose task reads it.

use crate::world::{Poll as Allowed, World, world};
use openraft::AsyncRuntime;
use openraft::Instant as _;
use openraft_rt_sim::{SimJoinError, SimJoinHandle, SimRuntime, SimSleep};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

thread_local! {
    static PLACE: Cell<u64> = const { Cell::new(0) };
    /// Virtual time of the poll under way: it stands still in one, and the runtime's own clock is behind a lock.
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// The place whose task is polled; 0 = the world itself.
pub(crate) fn place() -> u64 {
    PLACE.with(Cell::get)
}

/// Nanoseconds of virtual time since the start.
pub(crate) fn virtual_ns() -> u64 {
    NOW.get()
}

/// A poll begins.
fn look_at_clock() {
    NOW.set(
        openraft_rt_sim::SimInstant::try_now()
            .map_or(0, |now| u64::try_from(now.elapsed_since_start().as_nanos()).unwrap_or(u64::MAX)),
    );
}

/// Milliseconds of virtual time since the start.
pub(crate) fn virtual_ms() -> u64 {
    virtual_ns() / 1_000_000
}

pub(crate) struct Rt(SimRuntime);

impl std::fmt::Debug for Rt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rt")
    }
}

impl Rt {
    pub(crate) fn with_seed(seed: u64) -> Rt {
        NOW.set(0);
        Rt(SimRuntime::with_seed(seed))
    }
}

struct Cage<F> {
    place: u64,
    id: u64,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Cage<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        look_at_clock();
        match world(|w| w.may_poll(this.place, this.id, cx.waker())) {
            Allowed::Paused => return Poll::Pending,
            Allowed::Dead => {
                this.future = None;
                return Poll::Ready(None);
            }
            Allowed::Run => {}
        }
        let Some(future) = &mut this.future else { return Poll::Ready(None) };
        let before = PLACE.replace(this.place);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        PLACE.set(before);
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => {
                world(|w| w.done(this.place, this.id));
                Poll::Ready(Some(output))
            }
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_default();
                world(|w| {
                    w.done(this.place, this.id);
                    w.violation(format!("a task panicked: {text}"));
                });
                Poll::Ready(None)
            }
        }
    }
}

/// Spawns in a place.
pub(crate) fn spawn_at<F>(place: u64, future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let id = world(World::cage);
    drop(SimRuntime::spawn(Cage { place, id, future: Some(Box::pin(future)) }));
}

type Task = Pin<Box<dyn Future<Output = Option<()>>>>;

thread_local! {
    static LOCAL: RefCell<(Vec<Task>, Option<Waker>)> = const { RefCell::new((Vec::new(), None)) };
}

/// The same for a future that cannot be sent (openraft's start); it is polled by [`with_locals`].
pub(crate) fn spawn_local_at(place: u64, future: impl Future<Output = ()> + 'static) {
    let id = world(World::cage);
    let waker = LOCAL.with_borrow_mut(|(tasks, waker)| {
        tasks.push(Box::pin(Cage { place, id, future: Some(Box::pin(future)) }));
        waker.clone()
    });
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Runs a future and the local tasks beside it.
pub(crate) async fn with_locals<T>(main: impl Future<Output = T>) -> T {
    let mut main = Box::pin(main);
    let done = std::future::poll_fn(|cx| {
        look_at_clock();
        let mut tasks = LOCAL.with_borrow_mut(|(tasks, waker)| {
            *waker = Some(cx.waker().clone());
            std::mem::take(tasks)
        });
        tasks.retain_mut(|task| task.as_mut().poll(cx).is_pending());
        LOCAL.with_borrow_mut(|(kept, _)| kept.append(&mut tasks));
        main.as_mut().poll(cx)
    });
    let done = done.await;
    LOCAL.set((Vec::new(), None));
    done
}

/// A spawned task.
pub(crate) struct Handle<T>(SimJoinHandle<Option<T>>);

impl<T> Future for Handle<T> {
    type Output = Result<T, SimJoinError>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.get_mut().0).poll(cx).map(|done| done?.ok_or(SimJoinError::Cancelled))
    }
}

/// Nanoseconds of a host's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Local(u64);

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

impl Add<Duration> for Local {
    type Output = Local;
    fn add(self, by: Duration) -> Local {
        Local(self.0.saturating_add(ns(by)))
    }
}
impl AddAssign<Duration> for Local {
    fn add_assign(&mut self, by: Duration) {
        *self = *self + by;
    }
}
impl Sub<Duration> for Local {
    type Output = Local;
    fn sub(self, by: Duration) -> Local {
        Local(self.0.saturating_sub(ns(by)))
    }
}
impl SubAssign<Duration> for Local {
    fn sub_assign(&mut self, by: Duration) {
        *self = *self - by;
    }
}
impl Sub<Local> for Local {
    type Output = Duration;
    fn sub(self, earlier: Local) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
impl openraft::Instant for Local {
    fn now() -> Local {
        Local(world(|w| w.local_ns(w.host_of(place()))))
    }
}

/// Sleeps by the clock of the host that sleeps.
pub(crate) struct Sleep {
    until: u64,
    host: usize,
    inner: Option<SimSleep>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            let left = world(|w| w.virtual_left(this.host, this.until));
            if left == 0 {
                return Poll::Ready(());
            }
            let inner = this.inner.get_or_insert_with(|| SimRuntime::sleep(Duration::from_nanos(left)));
            match Pin::new(inner).poll(cx) {
                Poll::Ready(()) => this.inner = None,
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// A deadline around a future.
pub(crate) struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: Sleep,
}

/// The deadline passed.
#[derive(Debug)]
pub(crate) struct Elapsed;

impl std::fmt::Display for Elapsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("deadline passed")
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Poll::Ready(output) = this.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut this.sleep).poll(cx).map(|()| Err(Elapsed))
    }
}

impl AsyncRuntime for Rt {
    type JoinError = SimJoinError;
    type JoinHandle<T: Send + 'static> = Handle<T>;
    type Sleep = Sleep;
    type Instant = Local;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + Send> = Timeout<T>;
    type ThreadLocalRng = <SimRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <SimRuntime as AsyncRuntime>::Mpsc;
    type Watch = <SimRuntime as AsyncRuntime>::Watch;
    type Oneshot = <SimRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: Send + 'static> = <SimRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Handle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        let id = world(World::cage);
        Handle(SimRuntime::spawn(Cage { place: place(), id, future: Some(Box::pin(future)) }))
    }

    fn sleep(duration: Duration) -> Sleep {
        Self::sleep_until(Local::now() + duration)
    }

    fn sleep_until(deadline: Local) -> Sleep {
        Sleep { until: deadline.0, host: world(|w| w.host_of(place())), inner: None }
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), sleep: Self::sleep(duration) }
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: Local, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), sleep: Self::sleep_until(deadline) }
    }

    fn is_panic(error: &SimJoinError) -> bool {
        SimRuntime::is_panic(error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        SimRuntime::thread_rng()
    }

    fn new(_threads: usize) -> Self {
        Rt::with_seed(0)
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(work: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        std::future::ready(Ok(work()))
    }
}

pub(crate) fn sleep_ms(ms: u64) -> Sleep {
    Rt::sleep(Duration::from_millis(ms))
}

pub(crate) fn sleep_us(us: u64) -> Sleep {
    Rt::sleep(Duration::from_micros(us))
}
