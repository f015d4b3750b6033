//! Tests of the decision: named situations, and a simulation with faults at every step.

mod model;
mod simulation;
mod situations;
