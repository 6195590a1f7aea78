mod fake;
mod seal;
mod volume;
