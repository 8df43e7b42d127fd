//! tower: a service behind a buffer and a limit of concurrency, called with all requests of a
//! stream.

use std::convert::Infallible;

use ::tower::util::ServiceExt;
use ::tower::{ServiceBuilder, service_fn};
use futures::{StreamExt, stream};

use super::naive::CAPACITY;
use crate::measure::Sample;
use crate::runtime::{self, Load};
use crate::tally::Tally;
use crate::work::Work;

pub(crate) fn run<W: Work>(work: W, load: Load) -> Sample {
    runtime::on_tokio(load, move || async move {
        let service = service_fn(move |n| {
            let work = work.clone();
            async move { Ok::<_, Infallible>(work.run(n).await) }
        });
        // At least as many as are called at once, as its documentation advises.
        let buffer = CAPACITY.max(load.at_once);
        let service = ServiceBuilder::new()
            .buffer(buffer)
            .concurrency_limit(load.at_once)
            .service(service);
        let mut answers = service.call_all(stream::iter(0..load.jobs)).unordered();
        let mut tally = Tally::default();
        while let Some(answer) = answers.next().await {
            tally.add(answer.expect("the service does not fail"));
        }
        tally
    })
}
