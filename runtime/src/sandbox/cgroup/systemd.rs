//! Scopes of systemd, asked for over D-Bus (org.freedesktop.systemd1(5)).
//!
//! Each request has a connection and a runtime of its own, which end with it: this process has one thread again when it
//! forks the monitor, and who does not use systemd pays nothing.

use std::{io, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt};
use zbus::{Connection, DynamicType, Message, MessageStream, ObjectPath, OwnedObjectPath, Variant};

use super::{
    Scope,
    limits::{Amount, Limits},
    occupant::Occupant,
};

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// What systemd says to a unit that it has already, and to one that it does not have.
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// How long a request may take that hangs. What works takes milliseconds.
const LIMIT: Duration = Duration::from_secs(60);

/// To systemd, processor time is what may be used in a second, and the least step of it 10 ms.
const SECOND: u64 = 1_000_000;
const STEP: u64 = 10_000;

/// No limit, for every property that is a number.
const INFINITY: u64 = u64::MAX;

/// Why systemd does not keep a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// The system bus cannot be reached.
    #[error("--systemd-cgroup: the system's D-Bus: {0}; start it, or do without --systemd-cgroup")]
    Bus(zbus::Error),
    /// It said no.
    #[error("systemd: {action} {unit}: {}", reason(source))]
    Call {
        /// What was asked for.
        action: &'static str,
        /// Of which unit.
        unit: String,
        /// What it answered.
        source: zbus::Error,
    },
    /// It tried, and failed.
    #[error("systemd: {action} {unit}: its job ended as {result:?}")]
    Job {
        /// What was asked for.
        action: &'static str,
        /// Of which unit.
        unit: String,
        /// systemd's word for it.
        result: String,
    },
    /// It says nothing.
    #[error("systemd: no answer within {} s", LIMIT.as_secs())]
    Silent,
    /// What a request needs could not be made.
    #[error("systemd: prepare a request: {0}")]
    Prepare(io::Error),
}

/// What an error is about, without the type that it has on the bus.
fn reason(error: &zbus::Error) -> String {
    match error {
        zbus::Error::MethodError(_, Some(text), _) => text.clone(),
        other => other.to_string(),
    }
}

type Properties<'a> = Vec<(&'a str, Variant<'a>)>;

/// Starts a scope. It lasts as long as there is a process in it, the first being the one that is returned.
pub fn start(scope: &Scope, limits: &Limits) -> Result<Occupant, SystemdError> {
    let occupant = Occupant::start().map_err(SystemdError::Prepare)?;
    let mut properties = properties(limits);
    properties.extend([
        (
            "Description",
            Variant::from(format!("bulkhead sandbox {}", scope.name)),
        ),
        ("Slice", Variant::from(scope.slice.as_str())),
        ("PIDs", Variant::from(vec![occupant.pid()])),
        // What is in it is ours: systemd leaves the tree below alone.
        ("Delegate", Variant::from(true)),
        ("DefaultDependencies", Variant::from(false)),
        ("CPUAccounting", Variant::from(true)),
        ("IOAccounting", Variant::from(true)),
        ("MemoryAccounting", Variant::from(true)),
        ("TasksAccounting", Variant::from(true)),
    ]);
    converse(async |manager| {
        let start = || async {
            let auxiliary: [(&str, Properties<'_>); 0] = [];
            let body = (scope.name.as_str(), "fail", &properties, auxiliary.as_slice());
            manager.run_job("start", "StartTransientUnit", scope, &body).await
        };
        match start().await {
            // Of an earlier one of that name that ended badly, systemd keeps the memory.
            Err(error) if error.is(UNIT_EXISTS) => {
                manager.forget(scope).await;
                start().await
            }
            result => result,
        }
    })?;
    Ok(occupant)
}

/// Gives a scope other limits, until it ends.
pub fn update(scope: &Scope, limits: &Limits) -> Result<(), SystemdError> {
    let properties = properties(limits);
    converse(async |manager| {
        let body = (scope.name.as_str(), true, &properties);
        manager.call("limit", "SetUnitProperties", scope, &body).await?;
        Ok(())
    })
}

/// Ends a scope. One that has ended is no error.
pub fn stop(scope: &Scope) -> Result<(), SystemdError> {
    converse(async |manager| {
        let body = (scope.name.as_str(), "replace");
        match manager.run_job("stop", "StopUnit", scope, &body).await {
            Err(error) if error.is(NO_SUCH_UNIT) => return Ok(()),
            result => result?,
        }
        manager.forget(scope).await;
        Ok(())
    })
}

/// The limits that systemd has a property for. It would undo them otherwise, whenever it looks at its units again.
fn properties(limits: &Limits) -> Properties<'_> {
    let number = |amount| match amount {
        Amount::Of(number) => number,
        Amount::Max => INFINITY,
    };
    let mut all = Vec::new();
    all.extend(limits.memory.map(|bytes| ("MemoryMax", Variant::from(bytes))));
    all.extend(
        limits
            .swap
            .map(|swap| ("MemorySwapMax", Variant::from(number(swap)))),
    );
    all.extend(limits.weight.map(|weight| ("CPUWeight", Variant::from(weight))));
    if let Some(bandwidth) = limits.bandwidth {
        let per_second = match bandwidth.quota {
            Amount::Of(quota) => per_second(quota, bandwidth.period),
            Amount::Max => INFINITY,
        };
        all.push(("CPUQuotaPerSecUSec", Variant::from(per_second)));
        all.push(("CPUQuotaPeriodUSec", Variant::from(bandwidth.period)));
    }
    let mask = |list: &super::cpu_list::CpuList| Variant::from(list.mask().to_vec());
    all.extend(limits.cpus.as_ref().map(|list| ("AllowedCPUs", mask(list))));
    all.extend(
        limits
            .mems
            .as_ref()
            .map(|list| ("AllowedMemoryNodes", mask(list))),
    );
    all
}

/// Microseconds of processor time in a second, in whole steps.
fn per_second(quota: u64, period: u64) -> u64 {
    let exact = u128::from(quota) * u128::from(SECOND) / u128::from(period.max(1));
    let steps = u64::try_from(exact).unwrap_or(INFINITY).div_ceil(STEP);
    steps.saturating_mul(STEP)
}

/// Connects to systemd and has `talk` speak to it.
fn converse<T>(talk: impl AsyncFnOnce(Manager) -> Result<T, SystemdError>) -> Result<T, SystemdError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(SystemdError::Prepare)?;
    runtime.block_on(async {
        let conversation = async {
            let bus = Connection::system().await.map_err(SystemdError::Bus)?;
            talk(Manager { bus }).await
        };
        tokio::time::timeout(LIMIT, conversation)
            .await
            .unwrap_or(Err(SystemdError::Silent))
    })
}

impl SystemdError {
    /// Whether it is the error of that name.
    fn is(&self, name: &str) -> bool {
        matches!(self, Self::Call { source: zbus::Error::MethodError(error, ..), .. } if error.as_str() == name)
    }
}

/// systemd's manager of units.
struct Manager {
    bus: Connection,
}

impl Manager {
    async fn call<B: serde::Serialize + DynamicType>(
        &self,
        action: &'static str,
        method: &'static str,
        scope: &Scope,
        body: &B,
    ) -> Result<Message, SystemdError> {
        self.bus
            .call_method(Some(SERVICE), MANAGER_PATH, Some(MANAGER), method, body)
            .await
            .map_err(|source| SystemdError::Call {
                action,
                unit: scope.name.clone(),
                source,
            })
    }

    /// Calls a method that starts a job, and waits for the job's end.
    async fn run_job<B: serde::Serialize + DynamicType>(
        &self,
        action: &'static str,
        method: &'static str,
        scope: &Scope,
        body: &B,
    ) -> Result<(), SystemdError> {
        let failed = |source| SystemdError::Call {
            action,
            unit: scope.name.clone(),
            source,
        };
        // Before the job is started: it may end before its name has come back.
        let mut ended = self.ended_jobs().await.map_err(failed)?;
        self.call(action, "Subscribe", scope, &()).await?;
        let answer = self.call(action, method, scope, body).await?;
        let job: OwnedObjectPath = answer.body().deserialize().map_err(failed)?;
        loop {
            let Some(signal) = ended.next().await.transpose().map_err(failed)? else {
                return Err(failed(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
            };
            let body = signal.body();
            let (_, path, _, result): (u32, ObjectPath<'_>, &str, &str) =
                body.deserialize().map_err(failed)?;
            if path != *job {
                continue;
            }
            return match result {
                "done" => Ok(()),
                other => Err(SystemdError::Job {
                    action,
                    unit: scope.name.clone(),
                    result: other.to_owned(),
                }),
            };
        }
    }

    async fn ended_jobs(&self) -> zbus::Result<Pin<Box<dyn Stream<Item = zbus::Result<Message>>>>> {
        let rule = zbus::MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .sender(SERVICE)
            .path(MANAGER_PATH)
            .interface(MANAGER)
            .member("JobRemoved")
            .build()?;
        Ok(Box::pin(
            MessageStream::for_match_rule(rule, &self.bus, None).await?,
        ))
    }

    /// Has systemd forget that a unit failed. One that did not, or is not there, is as well.
    async fn forget(&self, scope: &Scope) {
        if let Err(error) = self
            .call("forget", "ResetFailedUnit", scope, &(scope.name.as_str(),))
            .await
        {
            tracing::debug!(%error, "unit not forgotten");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_counted_by_the_second_in_whole_steps() {
        assert_eq!(per_second(50_000, 100_000), 500_000);
        assert_eq!(per_second(1000, 300_000), 10_000);
        assert_eq!(per_second(150_000, 100_000), 1_500_000);
        assert_eq!(per_second(u64::MAX, 1), INFINITY);
        assert_eq!(per_second(1, 0), SECOND);
    }
}
