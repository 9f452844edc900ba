#![no_main]
crivet_fuzz::target!(LOG_ENTRY, json);
