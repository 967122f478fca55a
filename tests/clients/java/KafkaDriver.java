import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Apache Kafka's Java producer and consumer behind JSON lines: {"op": "produce" | "consume", ...}. */
public final class KafkaDriver {
    private static final Duration LIMIT = Duration.ofSeconds(20);

    private KafkaDriver() {}

    public static void main(String[] arguments) throws Exception {
        String bootstrap = arguments[0];
        var in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            JsonNode request = Json.MAPPER.readTree(line);
            ObjectNode answer = Json.object();
            try {
                switch (request.get("op").asText()) {
                    case "produce" -> produce(bootstrap, request, answer);
                    case "consume" -> consume(bootstrap, request, answer);
                    default -> answer.put("error", "unknown op");
                }
            } catch (Exception error) {
                answer.put("error", error.toString());
            }
            Json.print(answer);
        }
    }

    private static void produce(String bootstrap, JsonNode request, ObjectNode answer)
            throws Exception {
        Map<String, Object> config = new HashMap<>();
        config.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        config.put(ProducerConfig.COMPRESSION_TYPE_CONFIG, request.get("compression").asText());
        config.put(ProducerConfig.ACKS_CONFIG, "all");
        config.put(ProducerConfig.LINGER_MS_CONFIG, 5);
        config.put(ProducerConfig.DELIVERY_TIMEOUT_MS_CONFIG, 20_000);
        config.put(ProducerConfig.REQUEST_TIMEOUT_MS_CONFIG, 10_000);
        config.put(ProducerConfig.MAX_BLOCK_MS_CONFIG, 20_000);
        String topic = request.get("topic").asText();
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (var producer =
                new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (JsonNode record : request.get("records")) {
                Long timestamp = record.get("ts").isNull() ? null : record.get("ts").asLong();
                var out = new ProducerRecord<>(topic, null, timestamp,
                        Json.bytes(record.get("k")), Json.bytes(record.get("v")));
                for (JsonNode header : record.get("h")) {
                    out.headers().add(header.get(0).asText(), Json.bytes(header.get(1)));
                }
                sent.add(producer.send(out));
            }
            ArrayNode offsets = answer.putArray("offsets");
            for (Future<RecordMetadata> future : sent) {
                RecordMetadata metadata = future.get(LIMIT.toSeconds(), TimeUnit.SECONDS);
                offsets.addArray().add(metadata.partition()).add(metadata.offset());
            }
        }
    }

    private static void consume(String bootstrap, JsonNode request, ObjectNode answer) {
        Map<String, Object> config = new HashMap<>();
        config.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        config.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        config.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        config.put(ConsumerConfig.DEFAULT_API_TIMEOUT_MS_CONFIG, 20_000);
        config.put(ConsumerConfig.FETCH_MAX_WAIT_MS_CONFIG, 100);
        ArrayNode records = answer.putArray("records");
        try (var consumer =
                new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> partitions = new ArrayList<>();
            for (JsonNode topic : request.get("topics")) {
                for (PartitionInfo info : consumer.partitionsFor(topic.asText())) {
                    partitions.add(new TopicPartition(info.topic(), info.partition()));
                }
            }
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            long deadline = System.nanoTime() + LIMIT.toNanos();
            while (!ends.entrySet().stream()
                    .allMatch(end -> consumer.position(end.getKey()) >= end.getValue())) {
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException("not read to the end in time: " + ends);
                }
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(100))) {
                    add(records, record);
                }
            }
        }
    }

    private static void add(ArrayNode records, ConsumerRecord<byte[], byte[]> record) {
        ObjectNode out = records.addObject();
        out.put("t", record.topic());
        out.put("p", record.partition());
        out.put("o", record.offset());
        out.put("ts", record.timestamp());
        out.put("k", Json.text(record.key()));
        out.put("v", Json.text(record.value()));
        ArrayNode headers = out.putArray("h");
        for (Header header : record.headers()) {
            headers.addArray().add(header.key()).add(Json.text(header.value()));
        }
    }
}
