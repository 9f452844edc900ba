//! `crivet inventory`: every image and every running container on the node, vetted before anything is enforced.
//!
//! [`listed`] takes what the runtime has, [`uses`] makes of it what there is to judge (pure), [`judge`] judges it, by the
//! running daemon or by itself, and [`report`] tells (pure).

pub mod judge;
pub mod listed;
pub mod report;
pub mod uses;
