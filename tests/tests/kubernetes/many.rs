//! Many pods: at once, and one after the other.

use std::thread;

use bulkhead_tests::harness::cycles;

use crate::node::Node;
use crate::pod::Pod;

#[test]
fn cycles_leave_nothing() {
    let node = Node::new();
    for cycle in 0..cycles() {
        let pod = node.pod(|_| ());
        let container = pod.run("exec sleep 1000000");
        container.stop(0);
        container.remove();
        pod.remove();
        assert_eq!(node.containerd.leftovers(), Vec::<String>::new(), "cycle {cycle}");
    }
}

/// Twenty of them are started at once in the shim's test, where nothing else takes the processor.
#[test]
fn pods_at_once_all_come_up() {
    const PODS: usize = 4;
    let node = Node::new();
    let pods: Vec<Pod<'_>> = thread::scope(|scope| {
        let starting: Vec<_> = (0..PODS).map(|_| scope.spawn(|| node.pod(|_| ()))).collect();
        starting
            .into_iter()
            .map(|pod| pod.join().expect("it comes up"))
            .collect()
    });
    for pod in pods {
        assert!(pod.is_ready());
        pod.remove();
    }
}
