// Clients that are recorded for an hour: they sleep nearly all the time.
//
// usage: java Clients.java WHAT HTTP_PORT LINES_PORT

import java.net.HttpURLConnection;
import java.net.Socket;
import java.net.URI;
import java.util.ArrayList;
import java.util.List;

public class Clients {
    static final List<Object> KEPT = new ArrayList<>();
    static int http;
    static int lines;

    static void talk(Socket socket) throws Exception {
        socket.getOutputStream().write("hello\n".getBytes());
        socket.getInputStream().read(new byte[100]);
    }

    static Socket dial() throws Exception {
        Socket socket = new Socket("127.0.0.1", lines);
        talk(socket);
        return socket;
    }

    /** One more every six minutes; nobody closes any. */
    static void oneEverySixMinutes() throws Exception {
        while (true) {
            KEPT.add(dial());
            Thread.sleep(6 * 60_000);
        }
    }

    /** A large response every three minutes of which only the head is read. */
    static void bodiesUnread() throws Exception {
        while (true) {
            var url = URI.create("http://127.0.0.1:" + http + "/big/export").toURL();
            var connection = (HttpURLConnection) url.openConnection();
            connection.getResponseCode();
            KEPT.add(connection);
            Thread.sleep(3 * 60_000);
        }
    }

    /** Ten that are used every minute and live for twenty. */
    static void poolWithLifetime() throws Exception {
        Socket[] pool = new Socket[10];
        for (int turn = 0; ; turn++) {
            for (int i = 0; i < pool.length; i++) {
                if (pool[i] == null || (turn + 2 * i) % 20 == 19) {
                    if (pool[i] != null) {
                        pool[i].close();
                    }
                    pool[i] = dial();
                } else {
                    talk(pool[i]);
                }
            }
            Thread.sleep(60_000);
        }
    }

    public static void main(String[] arguments) throws Exception {
        http = Integer.parseInt(arguments[1]);
        lines = Integer.parseInt(arguments[2]);
        switch (arguments[0]) {
            case "oneEverySixMinutes" -> oneEverySixMinutes();
            case "bodiesUnread" -> bodiesUnread();
            default -> poolWithLifetime();
        }
    }
}
