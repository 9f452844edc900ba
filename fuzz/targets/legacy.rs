#![no_main]
crivet_fuzz::target!(LEGACY, json);
