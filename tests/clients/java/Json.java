import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.PrintStream;
import java.util.Base64;

/** One JSON object a line, as every driver of these tests speaks; bytes are base64, null is null. */
final class Json {
    static final ObjectMapper MAPPER = new ObjectMapper();
    /** The real standard output; libraries that print go to standard error. */
    static final PrintStream OUT = System.out;

    static {
        System.setOut(System.err);
    }

    private Json() {}

    static ObjectNode object() {
        return MAPPER.createObjectNode();
    }

    static synchronized void print(ObjectNode line) {
        try {
            OUT.println(MAPPER.writeValueAsString(line));
            OUT.flush();
        } catch (JsonProcessingException error) {
            throw new IllegalStateException(error);
        }
    }

    static byte[] bytes(JsonNode node) {
        return node == null || node.isNull() ? null : Base64.getDecoder().decode(node.asText());
    }

    static String text(byte[] bytes) {
        return bytes == null ? null : Base64.getEncoder().encodeToString(bytes);
    }
}
