//! What Ascend chips and CANN releases take, refuse and run slowly, and how long a model will take there.
//!
//! Everything here is from published material (each entry names its source); nothing of it was run on a device.

pub mod cost;
pub mod facts;
pub mod finding;
pub mod inspect;
pub mod platform;
pub mod published;
