//! All that real tools signed, and valid evidence with one thing broken.

mod real;
