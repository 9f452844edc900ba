#![no_main]
crivet_fuzz::target!(PAYLOAD, json);
