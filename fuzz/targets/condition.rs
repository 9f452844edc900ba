#![no_main]
crivet_fuzz::target!(CONDITION, bytes);
