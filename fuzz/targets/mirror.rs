#![no_main]
crivet_fuzz::target!(MIRROR, bytes);
