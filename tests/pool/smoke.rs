//! The straight path, once through.

use brigade::JobError;

use crate::harness::{Gate, Live, assert_settled, everywhere};

#[test]
fn every_input_of_a_map_has_one_completion() {
    everywhere(|env| async move {
        let pool = env.at_once(4).spawn_on(&env, |n: u32| async move {
            if n.is_multiple_of(7) { Err(n) } else { Ok(n) }
        });
        let mut seen = Vec::new();
        let mut map = pool.map(0..1000);
        while let Some(completion) = map.next().await {
            seen.push((completion.index, completion.result));
        }
        seen.sort_by_key(|(index, _)| *index);
        let expected: Vec<_> = (0..1000)
            .map(|n| {
                (
                    n as usize,
                    if n % 7 == 0 {
                        Err(JobError::Failed(n))
                    } else {
                        Ok(n)
                    },
                )
            })
            .collect();
        assert_eq!(seen, expected, "{}", env.name);
        assert!(map.summary().is_complete());
        assert_settled(&pool);
    });
}

#[test]
fn as_many_jobs_run_at_once_as_there_are_slots_and_no_more() {
    everywhere(|env| async move {
        for slots in [1, 3, 10] {
            let (gate, live) = (Gate::new(), Live::default());
            let (inside, alive) = (gate.clone(), live.clone());
            let pool = env.at_once(slots).spawn_on(&env, move |_: usize| {
                let (gate, live) = (inside.clone(), alive.clone());
                async move {
                    let _guard = live.enter();
                    gate.pass().await;
                    Ok::<_, ()>(())
                }
            });
            let handles: Vec<_> = (0..10 * slots)
                .map(|n| pool.try_submit(n).unwrap())
                .collect();
            gate.arrived(slots).await;
            assert_eq!(pool.stats().running, slots);
            gate.open(10 * slots);
            for handle in handles {
                assert_eq!(handle.await, Ok(()));
            }
            pool.drain().await;
            assert_eq!((live.most(), live.now()), (slots, 0), "{}", env.name);
            assert_settled(&pool);
        }
    });
}
