#![no_main]
crivet_fuzz::target!(REFERENCE, bytes);
