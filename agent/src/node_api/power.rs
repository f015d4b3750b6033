//! Taking the machine down: reboot, power off, reset. A master first asks itself whether etcd can do
//! without it.

use super::{NodeApi, document};
use crate::etcd;
use crate::machine::{ask_init, say};
use crate::server::{Answer, Caller};
use hyper::StatusCode;
use spec::agent::{Accepted, PowerRequest, ResetRequest, organization};
use spec::status::Request;

/// How the machine goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    Reboot,
    PowerOff,
}

pub async fn take_down(
    node: &NodeApi,
    member: Option<&etcd::Member>,
    down: Down,
    caller: &Caller,
    body: &[u8],
) -> Answer {
    let request: PowerRequest = match document(body) {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    if let Err(refusal) = may_force(caller, request.force) {
        return refusal;
    }
    let leave = match member.filter(|_| !request.force) {
        Some(member) => match member.leave().await {
            Ok(leave) => Some(leave),
            Err(reason) => return Answer::refusal(StatusCode::CONFLICT, reason),
        },
        None => None,
    };
    let (request, what) = match down {
        Down::Reboot => (Request::Reboot, "reboots"),
        Down::PowerOff => (Request::PowerOff, "powers off"),
    };
    let answer = ask(caller, &request, format!("{} {what}: pods end first", node.facts.identity.name)).await;
    if let Some(leave) = leave.filter(|_| answer.code == StatusCode::OK) {
        leave.take();
    }
    answer
}

pub async fn reset(node: &NodeApi, member: Option<&etcd::Member>, caller: &Caller, body: &[u8]) -> Answer {
    let request: ResetRequest = match document(body) {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    let own = &node.facts.identity.name;
    if request.name != *own {
        let reason = format!("this machine is {own}, not {}: nothing was reset", request.name);
        return Answer::refusal(StatusCode::CONFLICT, reason);
    }
    if let Some(member) = member.filter(|_| !request.force)
        && let Some(reason) = member.is_needed().await
    {
        return Answer::refusal(StatusCode::CONFLICT, reason);
    }
    ask(caller, &Request::ResetState, format!("{own} reboots and makes its state anew: what is on it is lost")).await
}

/// An operator's mistake must not cost the cluster: force takes an admin.
fn may_force(caller: &Caller, force: bool) -> Result<(), Answer> {
    if force && caller.organization != organization::ADMIN {
        let reason = format!("force is for {}, {} is {}", organization::ADMIN, caller.name, caller.organization);
        return Err(Answer::refusal(StatusCode::FORBIDDEN, reason));
    }
    Ok(())
}

async fn ask(caller: &Caller, request: &Request, message: String) -> Answer {
    say(format!("{message}; asked by {} ({})", caller.name, caller.organization));
    match ask_init(request).await {
        Ok(_) => Answer::of(&Accepted { message }),
        Err(error) => Answer::refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("asking init: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn force_takes_an_admin() {
        let caller = |organization: &str| Caller { name: "jo".into(), organization: organization.into(), issued: 0 };
        assert!(may_force(&caller(organization::OPERATOR), false).is_ok());
        assert!(may_force(&caller(organization::ADMIN), true).is_ok());
        let refusal = may_force(&caller(organization::OPERATOR), true).map_err(|answer| answer.code);
        assert_eq!(refusal, Err(StatusCode::FORBIDDEN));
    }
}
