#![no_main]
crivet_fuzz::target!(POLICY, bytes);
