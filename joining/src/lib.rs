//! The decision about forming and joining etcd clusters: pure functions over what a master has on
//! its disks and what the others last told it. No I/O, no clock, no randomness (ids are passed in).
//!
//! # Invariant
//!
//! *Out of one cluster definition there is never a second cluster, and no committed data that a disk
//! still holds is abandoned, unless an operator's order says so by name.* It rests on five rules:
//!
//! 1. **A founder is a machine with one life of its state disk.** A forming names each founder's
//!    `StateId`. A wiped machine has another one, so it never takes up again a part that it may have
//!    played: it comes back as a learner, after its old member has been removed, or in a new forming.
//! 2. **Unanimity, twice.** A forming is recorded only when every listed master (minus those an order
//!    leaves out by name) answers, and is fresh or has itself only recorded. etcd is started only
//!    when every founder is known to have recorded that same forming. What is recorded is a promise:
//!    it gives way to a higher forming (round, then id) alone, and a started one to none, so two
//!    formings that share one founder's disk never both start.
//! 3. **Who started is followed.** A founder that has promised a higher forming and then meets one
//!    of that forming's own founders already started goes back to what was started: the higher one
//!    has lost that founder's word for good and can never start.
//! 4. **What may have run is never formed over.** A disk remembers each forming it gave up. A new
//!    forming that leaves a quorum of an older one unbound (other disks, or left out) needs an order
//!    that names the older one.
//! 5. **Who knows a cluster never forms.** Its id goes to the seed and state of whoever meets it.
//!    Without data such a machine joins that cluster when it has a quorum, and otherwise says what
//!    it waits for.
//!
//! Stale answers are harmless as long as `Reports` keeps to its order; liveness holds with them: once
//! machines answer again every master becomes a voter of one cluster, or says a `Reason` that only an
//! operator can lift, and that only where a quorum's disks were wiped, damaged or left out.

mod decide;
mod forming;
mod membership;
mod reason;
mod types;
mod write;

pub use decide::{Decision, JoinRequest, Run, Start, decide};
pub use forming::{Forming, Founder, New, Order, majority};
pub use membership::{Cluster, Health, Member, MemberAction, Plan, membership};
pub use reason::{Obstacle, Reason};
pub use types::*;
pub use write::Write;
