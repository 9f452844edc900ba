#![no_main]
crivet_fuzz::target!(LOGINS, json);
