import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.RangeAssignor;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * One member of a consumer group that tells what happens to it, as JSON lines. Arguments: bootstrap,
 * group, topic, "eager" or "cooperative", session timeout in ms, group.instance.id (may be empty).
 * SIGTERM makes it commit and leave.
 */
public final class GroupMember {
    private static final Set<Integer> OWNED = new TreeSet<>();

    private GroupMember() {}

    public static void main(String[] arguments) throws Exception {
        var consumer = new KafkaConsumer<>(
                config(arguments), new ByteArrayDeserializer(), new ByteArrayDeserializer());
        AtomicBoolean stopping = new AtomicBoolean();
        CountDownLatch closed = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stopping.set(true);
            consumer.wakeup();
            try {
                closed.await();
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
            }
        }));
        consumer.subscribe(List.of(arguments[2]), new Listener());
        try {
            while (!stopping.get()) {
                ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(100));
                if (!records.isEmpty()) {
                    report(records);
                    commit(consumer);
                }
            }
        } catch (WakeupException stop) {
            // Asked to leave: what was reported was committed, so there is nothing more to do.
        } catch (RuntimeException error) {
            ObjectNode line = Json.object();
            line.put("event", "error").put("text", error.toString());
            Json.print(line);
        } finally {
            consumer.close();
            ObjectNode line = Json.object();
            line.put("event", "left");
            Json.print(line);
            closed.countDown();
        }
    }

    /** A rebalance may take the partitions away: then what they hold is read again by another. */
    private static void commit(KafkaConsumer<byte[], byte[]> consumer) {
        try {
            consumer.commitSync();
        } catch (CommitFailedException | RebalanceInProgressException error) {
            ObjectNode line = Json.object();
            line.put("event", "commit-failed").put("text", error.toString());
            Json.print(line);
        }
    }

    private static Map<String, Object> config(String[] arguments) {
        Map<String, Object> config = new HashMap<>();
        config.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        config.put(ConsumerConfig.GROUP_ID_CONFIG, arguments[1]);
        config.put(ConsumerConfig.PARTITION_ASSIGNMENT_STRATEGY_CONFIG,
                arguments[3].equals("cooperative")
                        ? CooperativeStickyAssignor.class.getName()
                        : RangeAssignor.class.getName());
        config.put(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG, arguments[4]);
        config.put(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG, 300);
        config.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        config.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        config.put(ConsumerConfig.FETCH_MAX_WAIT_MS_CONFIG, 100);
        config.put(ConsumerConfig.RETRY_BACKOFF_MS_CONFIG, 50);
        if (!arguments[5].isEmpty()) {
            config.put(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG, arguments[5]);
        }
        return config;
    }

    private static void report(ConsumerRecords<byte[], byte[]> records) {
        ObjectNode line = Json.object();
        line.put("event", "records");
        ArrayNode rows = line.putArray("records");
        for (ConsumerRecord<byte[], byte[]> record : records) {
            rows.addArray().add(record.partition()).add(record.offset())
                    .add(new String(record.value(), StandardCharsets.UTF_8));
        }
        Json.print(line);
    }

    /** Keeps the set of owned partitions: a cooperative callback names only the difference. */
    private static final class Listener implements ConsumerRebalanceListener {
        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            partitions.forEach(partition -> OWNED.add(partition.partition()));
            tell("assigned", partitions);
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            partitions.forEach(partition -> OWNED.remove(partition.partition()));
            tell("revoked", partitions);
        }

        @Override
        public void onPartitionsLost(Collection<TopicPartition> partitions) {
            onPartitionsRevoked(partitions);
        }

        private static void tell(String event, Collection<TopicPartition> partitions) {
            ObjectNode line = Json.object();
            line.put("event", event);
            ArrayNode changed = line.putArray("changed");
            partitions.stream().map(TopicPartition::partition).sorted().forEach(changed::add);
            ArrayNode owned = line.putArray("owned");
            OWNED.forEach(owned::add);
            Json.print(line);
        }
    }
}
