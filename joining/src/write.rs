//! The durable steps, and what each makes of the note on the state disk: the only way it changes.

use crate::forming::Forming;
use crate::types::{Admission, ClusterId, Holds, Membership, Note, Standing, State};
use std::mem::replace;

/// One durable step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A cluster of this definition exists: this disk is not fresh any more.
    Learn(ClusterId),
    /// An order that gives up a cluster which has been seen to run is not carried out, nor a lower one.
    Refuse(u64),
    /// The promise. Over data only when the forming's order gives that data up; etcd has been stopped before.
    Record(Forming),
    /// Before etcd's first start as a founder.
    Start(Forming),
    /// Before etcd's first start as an added learner.
    Join(Admission),
    /// etcd has committed data.
    Commit,
    /// The machine has no part in what is here any more (removed from the cluster, a forming that
    /// can never run, a damaged folder while the cluster runs). The folder stays behind; etcd has
    /// been stopped before.
    SetAside,
}

impl Standing {
    /// The standing with one write done.
    #[must_use]
    pub fn after(mut self, write: &Write) -> Standing {
        if let State::Mounted(note) = &mut self.state {
            note.write(write);
        }
        self
    }

    /// The standing with the seed sealed: it knows the cluster and permits no forming any more.
    #[must_use]
    pub fn sealed(mut self, cluster: &ClusterId) -> Standing {
        self.permit = false;
        self.seed_cluster = Some(cluster.clone());
        self
    }
}

impl Note {
    /// The note of a state disk just made.
    pub fn new(id: impl Into<String>) -> Note {
        Note { id: id.into(), knows: Default::default(), used_orders: 0, left: Vec::new(), holds: Holds::Nothing }
    }

    /// What the disk promised, now and before.
    pub(crate) fn formings(&self) -> impl Iterator<Item = &Forming> {
        self.left.iter().chain(self.holds.recorded()).chain(self.holds.started())
    }

    fn write(&mut self, write: &Write) {
        match write {
            Write::Learn(cluster) => drop(self.knows.insert(cluster.clone())),
            Write::Refuse(number) => self.use_up(*number),
            Write::Record(forming) => {
                // By an order: it may have come to data, so it counts as known until the new one has.
                self.knows.extend(self.holds.started().map(|given_up| given_up.id.clone()));
                self.give_up_for(Holds::Recorded(forming.clone()));
            }
            Write::Start(forming) => {
                self.use_up(forming.order.as_ref().map_or(0, |order| order.number));
                self.left.retain(|left| left.id != forming.id);
                match replace(&mut self.holds, Holds::Started(forming.clone())) {
                    Holds::Recorded(other) if other.id != forming.id => self.left.push(other),
                    _ => {}
                }
            }
            Write::Join(admission) => {
                self.give_up_for(Holds::Joining(admission.clone()));
                self.knows = [admission.cluster.clone()].into();
                self.left.clear();
            }
            Write::Commit => self.commit(),
            Write::SetAside => self.give_up_for(Holds::Nothing),
        }
    }

    fn use_up(&mut self, number: u64) {
        self.used_orders = self.used_orders.max(number);
    }

    fn give_up_for(&mut self, holds: Holds) {
        match replace(&mut self.holds, holds) {
            Holds::Recorded(left) => self.left.push(left),
            Holds::Started(left) | Holds::Partial { forming: Some(left), .. } => self.left.push(left),
            Holds::Joining(Admission { cluster, .. }) | Holds::Data(Membership { cluster, .. }) => {
                self.knows.insert(cluster);
            }
            Holds::Nothing | Holds::Partial { forming: None, .. } => {}
        }
    }

    fn commit(&mut self) {
        let membership = match &self.holds {
            Holds::Started(forming) => Membership {
                cluster: forming.id.clone(),
                abandons: forming.abandons(),
                member: None,
                forming: Some(forming.clone()),
            },
            Holds::Joining(admission) => Membership {
                cluster: admission.cluster.clone(),
                abandons: admission.abandons.clone(),
                member: Some(admission.member),
                forming: None,
            },
            Holds::Nothing | Holds::Recorded(_) | Holds::Data(_) | Holds::Partial { .. } => return,
        };
        self.knows = [membership.cluster.clone()].into();
        self.left.clear();
        self.holds = Holds::Data(membership);
    }
}
