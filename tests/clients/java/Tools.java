import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs Kafka's console tools by their main classes inside one JVM: {"class": ..., "arguments": [...]}
 * a line, answered by {"code": exit code, "out": base64, "err": text}. A JVM for each call would take
 * most of the tests' time.
 */
public final class Tools {
    /** What a tool's call of exit becomes. */
    private static final class Exited extends RuntimeException {
        Exited() {
            super(null, null, false, false);
        }
    }

    /** A stream whose target changes: some tools keep the System.out that they saw first. */
    private static final class Switch extends OutputStream {
        private OutputStream target;

        Switch(OutputStream target) {
            this.target = target;
        }

        synchronized OutputStream to(OutputStream next) {
            OutputStream previous = target;
            target = next;
            return previous;
        }

        @Override
        public synchronized void write(int value) throws IOException {
            target.write(value);
        }

        @Override
        public synchronized void write(byte[] bytes, int from, int length) throws IOException {
            target.write(bytes, from, length);
        }
    }

    /** The first exit of the running tool: some catch what we throw, and exit once more with 1. */
    private static Integer firstCode;

    private static void exit(int code) {
        if (firstCode == null) {
            firstCode = code;
        }
        throw new Exited();
    }

    private static final Switch OUT = new Switch(OutputStream.nullOutputStream());
    private static final Switch ERR = new Switch(System.err);

    private Tools() {}

    public static void main(String[] arguments) throws Exception {
        // Loads Json first, so that it keeps the real standard output.
        Json.object();
        System.setOut(new PrintStream(OUT, true, StandardCharsets.UTF_8));
        System.setErr(new PrintStream(ERR, true, StandardCharsets.UTF_8));
        Exit.setExitProcedure((code, message) -> exit(code));
        Exit.setHaltProcedure((code, message) -> exit(code));
        var in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            Json.print(run(Json.MAPPER.readTree(line)));
        }
    }

    private static ObjectNode run(JsonNode request) throws ReflectiveOperationException {
        List<String> arguments = new ArrayList<>();
        request.get("arguments").forEach(argument -> arguments.add(argument.asText()));
        var outBytes = new ByteArrayOutputStream();
        var errBytes = new ByteArrayOutputStream();
        int code = 0;
        firstCode = null;
        OutputStream out = OUT.to(outBytes);
        OutputStream err = ERR.to(errBytes);
        try {
            Class.forName(request.get("class").asText())
                    .getMethod("main", String[].class)
                    .invoke(null, (Object) arguments.toArray(String[]::new));
        } catch (InvocationTargetException error) {
            if (firstCode == null) {
                code = 1;
                error.getCause().printStackTrace();
            }
        } finally {
            System.out.flush();
            System.err.flush();
            OUT.to(out);
            ERR.to(err);
        }
        ObjectNode answer = Json.object();
        answer.put("code", firstCode == null ? code : firstCode);
        answer.put("out", Json.text(outBytes.toByteArray()));
        answer.put("err", errBytes.toString(StandardCharsets.UTF_8));
        return answer;
    }
}
