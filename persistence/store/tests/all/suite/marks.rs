//! Watermarks merge by maximum, in any order and any number of times.

use store::StoredMarks;

use super::*;

fn marks(n: [u64; 4]) -> StoredMarks {
    StoredMarks {
        customer_recv: n[0],
        customer_read: n[1],
        agent_recv: n[2],
        agent_read: n[3],
    }
}

async fn put(store: &Store, key: &ConversationKey, all: &[[u64; 4]]) {
    let mut write = partition();
    write.marks = all.iter().map(|n| (key.clone(), marks(*n))).collect();
    store.write(write).await.unwrap();
}

pub async fn marks_only_rise_in_any_order(store: Store) {
    let steps = [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 9, 3],
        [5, 2, 0, 0],
        [0, 0, 9, 9],
        [4, 4, 4, 4],
    ];
    let expected = steps
        .iter()
        .fold(StoredMarks::default(), |all, n| all.merged(marks(*n)));
    let mut order = steps.to_vec();
    for turn in 0..steps.len() {
        let key = fresh("alice");
        order.rotate_left(1);
        if turn % 2 == 1 {
            order.reverse();
        }
        for n in &order {
            put(&store, &key, &[*n]).await;
        }
        assert_eq!(store.load(&key).await.unwrap().unwrap().marks, expected);
        // All at once, one conversation named many times; then an old one again.
        put(&store, &key, &order).await;
        put(&store, &key, &[steps[0]]).await;
        let row = store.load(&key).await.unwrap().unwrap();
        assert_eq!((row.marks, row.state), (expected, None));
    }
}

pub async fn equal_sums_from_two_writers_both_count(store: Store) {
    let key = fresh("alice");
    put(&store, &key, &[[5, 0, 0, 0]]).await;
    put(&store, &key, &[[0, 0, 5, 0]]).await;
    assert_eq!(store.load(&key).await.unwrap().unwrap().marks, marks([5, 0, 5, 0]));
}

pub async fn marks_and_state_share_a_row_and_leave_each_other_alone(store: Store) {
    let (key, partition) = (fresh("alice"), partition());
    put(&store, &key, &[[7, 6, 0, 0]]).await;
    let mut write = of(&partition, &key, stretch(1, 2));
    write.marks = vec![(key.clone(), marks([0, 0, 2, 1]))];
    store.write(write).await.unwrap();
    let row = store.load(&key).await.unwrap().unwrap();
    assert_eq!(row.marks, marks([7, 6, 2, 1]));
    assert_eq!(row.state.unwrap(), "state at 2");
}

pub async fn marks_that_say_nothing_write_nothing(store: Store) {
    let key = fresh("alice");
    put(&store, &key, &[[0; 4]]).await;
    assert_eq!(store.load(&key).await.unwrap(), None);
}
