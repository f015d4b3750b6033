//! Services: their definitions, what each waits for, how they are started, watched and stopped.

pub mod backoff;
pub mod cgroup;
pub mod definition;
mod lifecycle;
pub mod log;
pub mod notify;
pub mod probe;
mod shutdown;
pub mod spawn;
pub mod supervisor;
pub mod unit;
mod view;
mod waiting;
