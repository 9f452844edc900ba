#![no_main]
crivet_fuzz::target!(TIMESTAMP, bytes);
