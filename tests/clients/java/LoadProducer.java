import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.clients.producer.Callback;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * An idempotent acks=all producer of default settings that sends numbered records at a steady pace to the
 * partitions of a topic in turn, until a line comes on its standard input; then it sends what it still holds
 * and ends. Arguments: bootstrap, topic, writer, partitions, records per second.
 *
 * <p>Ten times a second it tells what has happened: {"sent": count so far, "acks": [[partition, offset,
 * number, sent at, acknowledged at]...], "errors": [text...]}, with times in microseconds of
 * CLOCK_MONOTONIC; at the end {"sent": ..., "end": true}.
 */
public final class LoadProducer {
    private static final long TELL_EVERY_NS = 100_000_000;

    private final String topic;
    private final String writer;
    private final int partitions;
    private final long pauseNs;
    private ObjectNode next;
    private volatile long sent;

    private LoadProducer(String[] arguments) {
        topic = arguments[1];
        writer = arguments[2];
        partitions = Integer.parseInt(arguments[3]);
        pauseNs = 1_000_000_000L / Long.parseLong(arguments[4]);
        begin();
    }

    public static void main(String[] arguments) throws Exception {
        var load = new LoadProducer(arguments);
        AtomicBoolean stopping = new AtomicBoolean();
        Thread stop = new Thread(() -> {
            try (var in = new BufferedReader(
                    new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
                in.readLine();
            } catch (IOException error) {
                // Without standard input there is nobody left to send for.
            }
            stopping.set(true);
        });
        stop.setDaemon(true);
        stop.start();
        Thread telling = new Thread(() -> {
            while (true) {
                LockSupport.parkNanos(TELL_EVERY_NS);
                load.tell(false);
            }
        });
        telling.setDaemon(true);
        telling.start();
        try (var producer = new KafkaProducer<>(
                config(arguments[0]), new ByteArraySerializer(), new ByteArraySerializer())) {
            load.run(producer, stopping);
            producer.flush();
        }
        load.tell(true);
    }

    private static Map<String, Object> config(String bootstrap) {
        Map<String, Object> config = new HashMap<>();
        config.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        config.put(ProducerConfig.ACKS_CONFIG, "all");
        config.put(ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG, true);
        return config;
    }

    private void run(KafkaProducer<byte[], byte[]> producer, AtomicBoolean stopping) {
        long due = System.nanoTime();
        for (int number = 0; !stopping.get(); number++) {
            int partition = number % partitions;
            byte[] value = (writer + "-" + number + ".").getBytes(StandardCharsets.UTF_8);
            int mine = number;
            long sentAt = micros();
            Callback answered = (metadata, error) -> {
                if (error == null) {
                    acknowledged(partition, metadata.offset(), mine, sentAt);
                } else {
                    failed(mine + ": " + error);
                }
            };
            // Counted before it is sent, so that nothing is ever there that was not counted.
            sent = number + 1L;
            producer.send(new ProducerRecord<>(topic, partition, null, value), answered);
            due = Math.max(due + pauseNs, System.nanoTime() - TELL_EVERY_NS);
            long early = due - System.nanoTime();
            if (early > 0) {
                LockSupport.parkNanos(early);
            }
        }
    }

    private static long micros() {
        return System.nanoTime() / 1000;
    }

    private void begin() {
        next = Json.object();
        next.putArray("acks");
        next.putArray("errors");
    }

    private synchronized void acknowledged(int partition, long offset, int number, long sentAt) {
        ((ArrayNode) next.get("acks")).addArray()
                .add(partition).add(offset).add(number).add(sentAt).add(micros());
    }

    private synchronized void failed(String text) {
        ((ArrayNode) next.get("errors")).add(text);
    }

    private synchronized void tell(boolean isEnd) {
        next.put("sent", sent).put("end", isEnd);
        Json.print(next);
        begin();
    }
}
