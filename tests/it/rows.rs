mod crashes;
mod replicas;
mod requests;
