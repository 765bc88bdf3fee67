import java.io.IOException;
import java.net.Socket;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Deque;
import java.util.List;

/**
 * More programs of both sorts, one for each name; where it leaks, the line carries a comment with the name.
 *
 * usage: More NAME HTTP LINES
 */
public class More {
    static final List<Object> KEPT = Collections.synchronizedList(new ArrayList<>());
    static int lines;

    interface Step {
        void run(int n) throws Exception;
    }

    static void pace(Step step) throws Exception {
        System.out.println("ready");
        for (int n = 0;; n++) {
            step.run(n);
            Thread.sleep(600);
        }
    }

    static void ask(Socket s, String text) throws IOException {
        s.getOutputStream().write((text + "\n").getBytes());
        s.getInputStream().read(new byte[100]);
    }

    static final ThreadLocal<Socket> OWN = new ThreadLocal<>();

    static void serveJob(int n) throws Exception {
        if (OWN.get() == null) {
            OWN.set(new Socket("127.0.0.1", lines)); // LEAK thread-local
        }
        ask(OWN.get(), "job " + n);
        Thread.sleep(3_600_000); // END thread-local
    }

    static void replace(int n) throws IOException {
        Socket s = new Socket("127.0.0.1", lines); // LEAK failover
        ask(s, "primary " + n);
        KEPT.add(s); // END failover
    }

    /** Six, of which the oldest is closed for each that is opened. */
    static void turn(Deque<Socket> open, int n) throws IOException {
        Socket s = new Socket("127.0.0.1", lines);
        ask(s, "turn " + n);
        open.add(s);
        if (open.size() > 6) {
            open.remove().close();
        }
    }

    public static void main(String[] arguments) throws Exception {
        lines = Integer.parseInt(arguments[2]);
        Deque<Socket> open = new ArrayDeque<>();
        switch (arguments[0]) {
            case "thread-local" -> pace(n -> {
                Thread thread = new Thread(() -> {
                    try {
                        serveJob(n);
                    } catch (Exception e) {
                        throw new IllegalStateException(e);
                    }
                });
                thread.setDaemon(true);
                thread.start();
            });
            case "failover" -> pace(n -> replace(n));
            case "turns" -> pace(n -> turn(open, n));
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }
}
